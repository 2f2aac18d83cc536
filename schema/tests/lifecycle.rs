//! Every cell of the life cycle: states times inputs, with and without the right attempt and owner. The same run prints
//! the table in `docs/lifecycle.md`, so that the page cannot drift from the code.

use ffpool_schema::failure::{Cause, RetryPolicy};
use ffpool_schema::id::{Incarnation, WorkerId};
use ffpool_schema::lifecycle::{Custody, Facts, Input, Placing, Publish, Stale, State, Step, step};
use ffpool_schema::message::Sender;
use uuid::Uuid;

fn sender(name: &str, life: u128) -> Sender {
    Sender { worker: name.parse::<WorkerId>().unwrap(), incarnation: Incarnation(Uuid::from_u128(life)) }
}

fn owner() -> Sender {
    sender("owner", 1)
}

fn facts(state: State) -> Facts {
    let leased = matches!(state, State::Running | State::Cancelling);
    Facts {
        state,
        attempt: 2,
        failures: 0,
        max_retries: 3,
        losses: 0,
        loss_limit: 5,
        owner: leased.then(owner),
        consent: None,
        last_cause: None,
        paused: false,
        finishing: false,
        placing: if state == State::Delayed { Placing::Offered(chosen()) } else { Placing::No },
    }
}

/// The worker that was offered the job.
fn chosen() -> Sender {
    sender("chosen", 3)
}

/// Every input, in the forms that can make a difference.
fn inputs() -> Vec<(String, Input)> {
    let claim = |from: Sender, owner_dead, running_unanswered| Input::Claim { from, owner_dead, running_unanswered };
    let mut all = vec![
        ("arrive".into(), Input::Arrive),
        ("claim".into(), claim(sender("other", 2), false, None)),
        ("claim, owner dead".into(), claim(sender("other", 2), true, None)),
        ("claim by the owner".into(), claim(owner(), false, None)),
        ("claim by the owner's next life".into(), claim(sender("owner", 9), true, None)),
        ("claim, begun unanswered as 2".into(), claim(sender("other", 2), false, Some(2))),
        ("claim, begun unanswered as 3".into(), claim(sender("other", 2), false, Some(3))),
        ("offer".into(), Input::Offer { to: sender("other", 2) }),
        ("offer accepted".into(), Input::OfferAccepted { by: chosen() }),
        ("offer declined".into(), Input::OfferDeclined { by: chosen() }),
        ("take by whom it was offered to".into(), Input::Take { from: chosen() }),
        ("take by another".into(), Input::Take { from: sender("other", 2) }),
        ("take by the owner".into(), Input::Take { from: owner() }),
        ("due".into(), Input::Due),
        ("parents done".into(), Input::ParentsDone),
        ("parent failed".into(), Input::ParentFailed { skip: false }),
        ("parent failed, skipping".into(), Input::ParentFailed { skip: true }),
        ("deadline passed".into(), Input::DeadlinePassed),
        ("pause".into(), Input::Pause),
        ("resume".into(), Input::Resume),
        ("cancel".into(), Input::Cancel),
        ("finish".into(), Input::Finish),
        ("redrive".into(), Input::Redrive),
        ("held back".into(), Input::HoldBack),
        ("let go".into(), Input::LetGo),
        ("unfit here".into(), Input::Unfit),
        ("fits no worker".into(), Input::NeverFits),
        ("delivery limit".into(), Input::DeliveryLimit),
    ];
    for attempt in [1, 2] {
        let which = if attempt == 2 { "" } else { " (old attempt)" };
        let from = owner();
        all.extend([
            (format!("take custody{which}"), Input::TakeCustody { from: from.clone(), attempt }),
            (format!("commit{which}"), Input::Commit { from, attempt }),
            (format!("finished{which}"), Input::Finished { attempt }),
            (format!("failed, transient{which}"), Input::Failed { attempt, cause: Cause::NetTransient }),
            (format!("failed, for good{which}"), Input::Failed { attempt, cause: Cause::InputBad }),
            (format!("rejected{which}"), Input::Rejected { attempt }),
            (format!("released{which}"), Input::Released { attempt }),
            (format!("split{which}"), Input::Split { attempt }),
            (format!("cancel done{which}"), Input::CancelDone { attempt }),
            (format!("lapse{which}"), Input::Lapse { attempt }),
        ]);
    }
    all
}

fn every_world() -> Vec<Facts> {
    let mut worlds = Vec::new();
    for state in State::ALL {
        for consent in [None, Some(1), Some(2)] {
            for failures in [0, 3] {
                for losses in [0, 4] {
                    for last_cause in [None, Some(Cause::Oom)] {
                        for paused in [false, true] {
                            for placing in [Placing::No, Placing::Wanted, Placing::Offered(chosen())] {
                                let placing = if state == State::Delayed { placing } else { Placing::No };
                                let world = facts(state);
                                worlds.push(Facts { consent, failures, losses, last_cause, paused, placing, ..world });
                            }
                        }
                    }
                }
            }
        }
    }
    worlds
}

#[test]
fn an_end_is_left_only_by_a_redrive() {
    for world in every_world().into_iter().filter(|world| world.state.is_end()) {
        for (name, input) in inputs() {
            if let Step::Move(change) = step(&world, &input) {
                assert_eq!(input, Input::Redrive, "{name} moves {world:?} to {}", change.to);
                assert!(matches!(world.state, State::Failed | State::Cancelled), "{name} moves {world:?}");
            }
        }
    }
}

#[test]
fn a_lease_is_held_exactly_while_running_or_cancelling() {
    for world in every_world() {
        let leased = matches!(world.state, State::Running | State::Cancelling);
        for (name, input) in inputs() {
            let Step::Move(change) = step(&world, &input) else { continue };
            let leased_after = matches!(change.to, State::Running | State::Cancelling);
            match (leased, leased_after) {
                (true, false) => assert!(change.end.is_some() && !change.begin, "{name}: {world:?} -> {change:?}"),
                (true, true) => assert_eq!(change.end.is_some(), change.begin, "{name}: {world:?} -> {change:?}"),
                (false, true) => assert!(change.begin && change.end.is_none(), "{name}: {world:?} -> {change:?}"),
                (false, false) => assert!(change.end.is_none() && !change.begin, "{name}: {world:?} -> {change:?}"),
            }
        }
    }
}

#[test]
fn whoever_leaves_a_job_waiting_publishes_it_again() {
    for world in every_world() {
        for (name, input) in inputs() {
            let Step::Move(change) = step(&world, &input) else { continue };
            let stays = change.to == world.state && change.end.is_none();
            if matches!(change.to, State::Queued | State::Delayed) && !stays {
                assert!(change.publish.is_some(), "{name}: nobody would publish {world:?} -> {change:?}");
            } else if !stays {
                assert!(change.publish.is_none(), "{name}: {world:?} -> {change:?} publishes a job that does not wait");
            }
        }
    }
}

#[test]
fn only_a_consented_attempt_completes_a_job() {
    for world in every_world() {
        for (name, input) in inputs() {
            let Step::Move(change) = step(&world, &input) else { continue };
            if change.to == State::Completed {
                let Input::Finished { attempt } = input else { panic!("{name} completes {world:?}") };
                assert_eq!(world.consent, Some(attempt), "{name} completes {world:?}");
            }
        }
    }
}

#[test]
fn no_old_attempt_touches_the_lease_of_a_later_one() {
    for world in every_world() {
        for (name, input) in inputs().into_iter().filter(|(name, _)| name.ends_with("(old attempt)")) {
            let published = matches!(input, Input::Finished { .. }) && world.consent == Some(1);
            assert!(published || !matches!(step(&world, &input), Step::Move(_)), "{name} moves {world:?}");
        }
    }
}

#[test]
fn every_end_of_an_attempt_ends_a_job_that_is_being_cancelled() {
    for input in [
        Input::Failed { attempt: 2, cause: Cause::NetTransient },
        Input::Released { attempt: 2 },
        Input::CancelDone { attempt: 2 },
        Input::Split { attempt: 2 },
        Input::Lapse { attempt: 2 },
        Input::Rejected { attempt: 2 },
    ] {
        let Step::Move(change) = step(&facts(State::Cancelling), &input) else { panic!("{input:?} does not move") };
        assert_eq!(change.to, State::Cancelled, "{input:?}");
    }
}

#[test]
fn a_job_that_runs_is_told_once_to_end_with_what_it_has_and_goes_on_running() {
    let running = facts(State::Running);
    let Step::Move(change) = step(&running, &Input::Finish) else { panic!("it runs") };
    assert_eq!((change.to, change.finish, change.end), (State::Running, true, None));
    for again in [Facts { finishing: true, ..running.clone() }, Facts { consent: Some(2), ..running }] {
        assert!(matches!(step(&again, &Input::Finish), Step::Stale(_)));
    }
    // The wish outlives the attempt.
    let released = Facts { finishing: true, ..facts(State::Running) };
    let Step::Move(change) = step(&released, &Input::Released { attempt: 2 }) else { panic!("it is handed back") };
    assert_eq!(change.to, State::Queued);
}

#[test]
fn a_cancel_after_consent_is_refused_and_before_it_never() {
    let consented = Facts { consent: Some(2), ..facts(State::Running) };
    assert!(matches!(step(&consented, &Input::Cancel), Step::Refuse(_)));
    for state in [State::Blocked, State::Delayed, State::Queued, State::Running] {
        assert!(matches!(step(&facts(state), &Input::Cancel), Step::Move(_)), "{state}");
    }
}

#[test]
fn only_failures_cost_a_failure() {
    for world in every_world() {
        for (name, input) in inputs() {
            let Step::Move(change) = step(&world, &input) else { continue };
            let failed = matches!(input, Input::Failed { .. }) && world.state == State::Running;
            assert_eq!(change.count_failure, failed, "{name}: {world:?} -> {change:?}");
        }
    }
}

#[test]
fn each_cause_is_retried_by_its_policy_and_never_beyond_the_budget() {
    for cause in Cause::ALL {
        let run = |failures, last_cause| {
            let world = Facts { failures, last_cause, ..facts(State::Running) };
            match step(&world, &Input::Failed { attempt: 2, cause }) {
                Step::Move(change) => change,
                other => panic!("{cause}: {other:?}"),
            }
        };
        let (first, second, last) = (run(0, None), run(1, Some(cause)), run(3, Some(cause)));
        match cause.policy() {
            RetryPolicy::Never => assert_eq!(first.to, State::Failed, "{cause}"),
            RetryPolicy::Once => assert_eq!((first.to, second.to), (State::Delayed, State::Failed), "{cause}"),
            RetryPolicy::Backoff => {
                assert_eq!((first.to, second.to, last.to), (State::Delayed, State::Delayed, State::Failed), "{cause}");
                assert_eq!(first.publish, Some(Publish::AfterBackoff), "{cause}");
            }
            RetryPolicy::Free => assert_eq!((first.to, last.to), (State::Queued, State::Queued), "{cause}"),
        }
    }
}

#[test]
fn a_job_whose_workers_keep_dying_is_parked() {
    let world = Facts { losses: 4, ..facts(State::Running) };
    let Step::Move(change) = step(&world, &Input::Lapse { attempt: 2 }) else { panic!("a lapse moves a running job") };
    assert_eq!(change.to, State::Failed);
}

#[test]
fn a_job_that_is_held_back_waits_in_the_ledger_and_goes_first_when_it_is_let_go() {
    let Step::Move(held) = step(&facts(State::Queued), &Input::HoldBack) else { panic!("its turn had come") };
    assert_eq!((held.to, held.publish, held.custody), (State::Delayed, Some(Publish::WhenRoom), Some(Custody::Ledger)));
    assert!(held.drop.is_some() && !held.begin && !held.count_failure);
    let waits = Facts { placing: Placing::No, ..facts(State::Delayed) };
    let claim = Input::Claim { from: sender("other", 2), owner_dead: false, running_unanswered: None };
    assert_eq!(step(&waits, &claim), Step::Stale(Stale::NotYet), "a copy that was on its way");
    let Step::Move(change) = step(&waits, &Input::LetGo) else { panic!("there is room") };
    assert_eq!((change.to, change.publish), (State::Queued, Some(Publish::First)));
}

#[test]
fn a_lost_answer_to_a_claim_is_given_again() {
    let claim = Input::Claim { from: owner(), owner_dead: false, running_unanswered: None };
    let Step::Move(change) = step(&facts(State::Running), &claim) else { panic!("the owner may ask again") };
    assert!(change.grant_again && !change.begin);
}

#[test]
fn a_paused_job_is_not_granted_and_its_resumption_publishes_it() {
    let paused = Facts { paused: true, ..facts(State::Queued) };
    let claim = Input::Claim { from: sender("other", 2), owner_dead: false, running_unanswered: None };
    assert_eq!(step(&paused, &claim), Step::Stale(Stale::Paused));
    let Step::Move(change) = step(&paused, &Input::Resume) else { panic!("a paused job can go on") };
    assert_eq!((change.to, change.publish, change.pause), (State::Queued, Some(Publish::Now), Some(false)));
}

#[test]
fn an_offered_job_is_taken_by_whom_it_was_offered_to_and_a_retry_is_never_offered() {
    let take = |from: Sender| Input::Take { from };
    let offered = facts(State::Delayed);
    let Step::Move(change) = step(&offered, &take(chosen())) else { panic!("it was offered to it") };
    assert_eq!((change.begin, change.custody, change.publish), (true, Some(Custody::Ledger), None));
    assert_eq!(step(&offered, &take(sender("other", 2))), Step::Stale(Stale::NotYet));
    assert_eq!(step(&offered, &take(sender("chosen", 4))), Step::Stale(Stale::NotYet), "another life of it");
    let waits_for_its_retry = Facts { placing: Placing::No, ..facts(State::Delayed) };
    for input in [take(chosen()), Input::Offer { to: chosen() }] {
        assert_eq!(step(&waits_for_its_retry, &input), Step::Stale(Stale::NotYet));
    }
    // Whoever took it first has it: the other attempt would be a second one.
    assert_eq!(step(&facts(State::Running), &take(chosen())), Step::Stale(Stale::OldAttempt));
}

fn cell(state: State, input: &Input) -> String {
    match step(&facts(state), input) {
        Step::Move(change) => {
            let mut text = format!("**{}**", change.to);
            let mut note = |condition: bool, word: &str| {
                if condition {
                    text.push_str(", ");
                    text.push_str(word);
                }
            };
            note(change.begin, "attempt begins");
            note(change.grant_again, "granted again");
            note(change.consent, "may publish");
            note(change.count_failure, "counts");
            note(change.tell.is_some(), "owner told");
            note(change.drop.is_some_and(|_| !change.begin), "delivery dropped");
            note(change.pause == Some(true), "paused");
            note(change.pause == Some(false) && matches!(input, Input::Resume), "goes on");
            match change.publish {
                Some(Publish::Now) => note(true, "published now"),
                Some(Publish::First) => note(true, "published first"),
                Some(Publish::AfterBackoff) => note(true, "published after backoff"),
                Some(Publish::AfterPlacementPause) => note(true, "published after a pause"),
                Some(Publish::AfterOffer) => note(true, "published unless taken"),
                Some(Publish::WhenDue) => note(true, "published when due"),
                Some(Publish::WhenRoom) => note(true, "published when there is room"),
                None => {}
            }
            text
        }
        Step::Stale(Stale::Repeat) => "·".into(),
        Step::Stale(Stale::Ended(_)) => "·  ended".into(),
        Step::Stale(Stale::OldAttempt) => "·  old".into(),
        Step::Stale(Stale::NotYet) => "·  not yet".into(),
        Step::Stale(Stale::Cancelling) => "·  cancelling".into(),
        Step::Stale(Stale::Paused) => "·  paused".into(),
        Step::Refuse(refusal) => format!("✗ {refusal}"),
    }
}

/// The table of the page, for a job whose current attempt is 2, with retries left and no consent given.
fn table() -> String {
    let mut text = String::from("| input |");
    for state in State::ALL {
        text.push_str(&format!(" {state} |"));
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(State::ALL.len()));
    text.push('\n');
    for (name, input) in inputs() {
        text.push_str(&format!("| {name} |"));
        for state in State::ALL {
            text.push_str(&format!(" {} |", cell(state, &input)));
        }
        text.push('\n');
    }
    text
}

/// Rewrites the table when `FFPOOL_BLESS=1`; otherwise fails when the page and the code differ.
#[test]
fn the_page_shows_the_table_that_the_code_makes() {
    const BEGIN: &str = "<!-- table: made by schema/tests/lifecycle.rs; FFPOOL_BLESS=1 rewrites it -->\n";
    const END: &str = "<!-- end of table -->";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/lifecycle.md");
    let page = std::fs::read_to_string(path).expect("docs/lifecycle.md is part of the repository");
    let (head, rest) = page.split_once(BEGIN).expect("the page has the mark where the table begins");
    let (old, tail) = rest.split_once(END).expect("the page has the mark where the table ends");
    if std::env::var_os("FFPOOL_BLESS").is_some() {
        std::fs::write(path, format!("{head}{BEGIN}{}{END}{tail}", table())).expect("the page can be written");
    } else {
        assert_eq!(old, table(), "docs/lifecycle.md is out of date: FFPOOL_BLESS=1 cargo test -p ffpool-schema");
    }
}
