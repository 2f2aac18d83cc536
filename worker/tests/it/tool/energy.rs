//! The energy of an attempt: its part of what the machine's counters tell, and nothing where they tell nothing.

use std::fs;
use std::path::Path;

use super::bench::{Bench, Ledger, manifest};

/// Counters like the kernel's, of one package that is about to begin again.
fn counters(dir: &Path) {
    let zone = dir.join("powercap/intel-rapl:0");
    fs::create_dir_all(&zone).unwrap();
    for (file, text) in [("name", "package-0\n"), ("max_energy_range_uj", "1000000000\n"), ("energy_uj", "999000000\n")]
    {
        fs::write(zone.join(file), text).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_says_its_part_of_the_energy_over_a_counter_that_begins_again() {
    let bench = Bench::with(|settings, dir| {
        counters(dir);
        settings.powercap = dir.join("powercap");
    })
    .await;
    let mut spec = bench.spec("240p25-h264");
    spec.parameters.duration = Some(1.0);
    let grant = bench.grant(&spec);
    // When it asks to publish, the machine has taken 501 J more than when it began.
    let counter = bench.dir.path().join("powercap/intel-rapl:0/energy_uj");
    let ledger = Ledger::Counts { counter, uj: 500_000_000 };
    let ended = bench.start(&grant, ledger).ended.await.unwrap();
    let joules = ended.usage.energy_joules.unwrap();
    assert!(joules > 0.0 && joules <= 501.0, "{joules}");
    let told = manifest(&ended).usage.energy_joules.unwrap();
    assert!(told > 0.0 && told <= 501.0, "{told}");

    // The counter can be read no more: the next attempt claims nothing.
    fs::remove_file(bench.dir.path().join("powercap/intel-rapl:0/energy_uj")).unwrap();
    let ended = bench.run(&bench.grant(&spec)).await;
    assert_eq!((ended.usage.energy_joules, manifest(&ended).usage.energy_joules), (None, None));
    assert!(ended.usage.cpu_ms > 0);
}
