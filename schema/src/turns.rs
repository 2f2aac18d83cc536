//! Whose turn it is, where jobs of several tenants wait for the same workers. Pure: time comes in as what was used of it.
//!
//! Each tenant has an account of what it had, in core seconds over its weight, and the next turn is that of the one who had least. A
//! start is charged [`START_CORE_SECS`] for each core at once, and what it runs beyond that as it runs: so many short jobs
//! share their starts by weight, and long ones the cores' time.
//!
//! Invariant: a turn is dealt whenever somebody waits; nobody who waits is passed over for ever.

/// What a start is charged at once for each core: what is shorter than this costs as much.
pub const START_CORE_SECS: f64 = 1.0;
/// Turns that are dealt ahead at least: what a slot takes that becomes free before the next look.
pub const AHEAD_MIN: usize = 2;
/// Turns that are dealt ahead at most: what was dealt is not dealt anew when somebody else comes.
pub const AHEAD_MAX: usize = 200;

/// The account of one tenant that waits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Account {
    /// Its share; 0 counts as 1.
    pub weight: u32,
    /// What it had, in core seconds over its weight.
    pub had: f64,
}

impl Account {
    /// Charges what was used.
    pub fn charge(&mut self, core_secs: f64) {
        self.had += core_secs / f64::from(self.weight.max(1));
    }
}

/// Where a tenant begins that did not wait before: not behind those that do, because time in which it wanted nothing is not saved
/// up. `known` is its account of before, if it has one; `waiting` are those who waited before it.
#[must_use]
pub fn begin_at(known: Option<f64>, waiting: impl IntoIterator<Item = f64>) -> f64 {
    let least = waiting.into_iter().fold(f64::INFINITY, f64::min);
    let known = known.unwrap_or(0.0);
    if least.is_finite() { known.max(least) } else { known }
}

/// How many turns are to be dealt ahead, when so many were used since the last look: twice as many, so that those who take them
/// never find none for long.
#[must_use]
pub fn ahead(used: usize) -> usize {
    (2 * used).clamp(AHEAD_MIN, AHEAD_MAX)
}

/// Deals up to `count` turns: each to the one who had least, the first of equals. `waiting` has for each account the cores of its
/// jobs, first to last. Answers whose turns they are, in order, and charges them.
#[must_use]
pub fn deal(accounts: &mut [Account], waiting: &[Vec<f64>], count: usize) -> Vec<usize> {
    let mut taken = vec![0; accounts.len()];
    let mut turns = Vec::new();
    while turns.len() < count {
        let waits = |who: &usize| waiting.get(*who).is_some_and(|jobs| taken[*who] < jobs.len());
        let next = (0..accounts.len()).filter(waits).min_by(|a, b| accounts[*a].had.total_cmp(&accounts[*b].had));
        let Some(who) = next else { break };
        accounts[who].charge(waiting[who][taken[who]] * START_CORE_SECS);
        taken[who] += 1;
        turns.push(who);
    }
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random (xorshift64*), the same in each run.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
        }
    }

    fn accounts(weights: &[u32]) -> Vec<Account> {
        weights.iter().map(|&weight| Account { weight, had: 0.0 }).collect()
    }

    #[test]
    fn turns_are_dealt_by_weight_and_in_turn() {
        let mut accounts = accounts(&[3, 1]);
        let waiting = vec![vec![1.0; 100]; 2];
        let turns = deal(&mut accounts, &waiting, 40);
        assert_eq!(turns.iter().filter(|who| **who == 0).count(), 30);
        for four in turns.chunks(4) {
            assert_eq!(four.iter().filter(|who| **who == 1).count(), 1, "{turns:?}");
        }
    }

    #[test]
    fn whoever_waits_alone_has_all_turns_and_none_is_dealt_to_nobody() {
        let mut accounts = accounts(&[1, 1000]);
        assert_eq!(deal(&mut accounts, &[vec![1.0; 3], Vec::new()], 5), [0, 0, 0]);
        assert_eq!(deal(&mut accounts, &[Vec::new(), Vec::new()], 5), [0; 0]);
        assert_eq!(deal(&mut [], &[], 5), [0; 0]);
    }

    #[test]
    fn whatever_the_weights_nobody_is_passed_over_for_longer_than_the_others_shares() {
        let mut numbers = Numbers(7);
        for _ in 0..200 {
            let weights: Vec<u32> = (0..2 + numbers.below(6)).map(|_| 1 + numbers.below(50) as u32).collect();
            let mut accounts = accounts(&weights);
            let sum: u32 = weights.iter().sum();
            let count = 20 * sum as usize;
            let turns = deal(&mut accounts, &vec![vec![1.0; count]; weights.len()], count);
            for (who, &weight) in weights.iter().enumerate() {
                let had: Vec<usize> =
                    turns.iter().enumerate().filter(|(_, turn)| **turn == who).map(|(at, _)| at).collect();
                let share = had.len() as f64 / count as f64 * f64::from(sum) / f64::from(weight);
                assert!((share - 1.0).abs() < 0.1, "{weights:?}: {who} has {share} of its share");
                let longest = had.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
                let bound = sum as usize / weight as usize + weights.len() + 1;
                assert!(longest <= bound, "{weights:?}: {who} waits for {longest} turns, {bound} are its share");
            }
        }
    }

    #[test]
    fn who_comes_later_or_comes_back_has_saved_nothing_up() {
        assert_eq!(begin_at(None, [70.0, 50.0]), 50.0);
        assert_eq!(begin_at(Some(10.0), [70.0, 50.0]), 50.0, "it wanted nothing meanwhile");
        assert_eq!(begin_at(Some(60.0), [70.0, 50.0]), 60.0, "nor is what it had forgotten");
        assert_eq!(begin_at(Some(60.0), []), 60.0);
    }

    #[test]
    fn as_many_are_dealt_ahead_as_are_used() {
        assert_eq!([ahead(0), ahead(1), ahead(20), ahead(1000)], [2, 2, 40, 200]);
    }

    /// A pool of `slots`, looked at four times a second, whose tenants have more jobs than will run, of `secs` seconds on average. What
    /// has no turn runs in the order of arrival: all of the first tenant before all others. Answers starts and core seconds.
    fn pool(weights: &[u32], secs: &[f64], slots: usize, looks: usize, numbers: &mut Numbers) -> (Vec<f64>, Vec<f64>) {
        const LOOK: f64 = 0.25;
        let mut accounts = accounts(weights);
        // Whose it is, how long it runs, how long it has run.
        let mut running: Vec<(usize, f64, f64)> = Vec::new();
        let mut dealt: std::collections::VecDeque<usize> = std::collections::VecDeque::new();
        let (mut starts, mut used) = (vec![0.0; weights.len()], vec![0.0; weights.len()]);
        let mut taken = 0;
        for _ in 0..looks {
            let window = ahead(std::mem::take(&mut taken));
            let missing = window.saturating_sub(dealt.len());
            dealt.extend(deal(&mut accounts, &vec![vec![1.0; missing]; weights.len()], missing));
            while running.len() < slots {
                let who = dealt.pop_front().unwrap_or(0);
                taken += 1;
                starts[who] += 1.0;
                let length = secs[who] * (0.5 + numbers.below(1000) as f64 / 1000.0);
                running.push((who, length, 0.0));
            }
            for (who, length, ran) in &mut running {
                let before = *ran;
                *ran = (before + LOOK).min(*length);
                used[*who] += *ran - before;
                accounts[*who].charge((*ran - START_CORE_SECS.max(before)).max(0.0));
            }
            running.retain(|(_, length, ran)| ran < length);
        }
        (starts, used)
    }

    #[test]
    fn short_jobs_share_their_starts_and_long_ones_the_time_by_weight() {
        let mut numbers = Numbers(11);
        let near = |had: &[f64], weights: &[u32], what: &str| {
            let (all, sum) = (had.iter().sum::<f64>(), f64::from(weights.iter().sum::<u32>()));
            for (had, weight) in had.iter().zip(weights) {
                let share = had / all * sum / f64::from(*weight);
                assert!((share - 1.0).abs() < 0.1, "{what}, {weights:?}: {share} of its share");
            }
        };
        for (weights, slots) in [(&[1, 3][..], 1), (&[1, 3], 4), (&[1, 1, 2], 7), (&[5, 1, 2, 2], 40)] {
            let secs = vec![0.25; weights.len()];
            let (starts, _) = pool(weights, &secs, slots, 4_000, &mut numbers);
            near(&starts, weights, "starts of short jobs");
        }
        // The films of the first would have nine tenths and more of the machines if starts were shared.
        for (weights, secs, slots) in
            [(&[1, 1][..], &[300.0, 5.0][..], 8), (&[1, 3], &[120.0, 12.0], 4), (&[2, 1, 1], &[60.0, 600.0, 6.0], 16)]
        {
            let (_, used) = pool(weights, secs, slots, 200_000, &mut numbers);
            near(&used, weights, "time of long jobs");
        }
    }
}
