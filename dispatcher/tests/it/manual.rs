//! The manual pages, made from the table of settings.

use std::path::Path;
use std::process::Command;

use clap::CommandFactory as _;
use ffpool_runtime::settings_page::{hold, rows};

#[test]
fn every_setting_is_in_the_manual_and_groff_sets_it_without_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let written =
        Command::new(env!("CARGO_BIN_EXE_ffpool-dispatcher")).arg("--man-pages").arg(folder.path()).output().unwrap();
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let mut pages = 0;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let text = ffpool_stack::manual_page(&entry.unwrap().path());
        assert!(text.contains("SYNOPSIS") && text.contains("SEE ALSO"), "{text}");
        pages += 1;
    }
    assert!(pages >= 1);
    let text = ffpool_stack::manual_page(&folder.path().join("ffpool-dispatcher.8"));
    for said in ["FFPOOL_AMQP_URL", "FFPOOL_NATS_URL", "--man-pages", "Exit codes: 0 stopped as asked"] {
        assert!(text.split_whitespace().collect::<Vec<_>>().join(" ").contains(said), "{said} is missing in:\n{text}");
    }
}

#[test]
fn every_setting_stands_on_the_page_of_settings_as_the_help_tells_it() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/settings.md");
    hold(&page, "ffpool-dispatcher", &rows(ffpool_dispatcher::settings::Settings::command())).unwrap();
}
