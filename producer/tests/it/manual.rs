//! Manual pages and completions, made from the table of commands.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use ffpool_stack::manual_page;

use crate::{ffpool, json, run, stderr, stdout};

#[test]
fn every_command_has_a_manual_page_that_groff_sets_without_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let man1 = folder.path().join("man1");
    let written = json(&run(0, &mut ffpool(&["man", man1.to_str().unwrap(), "--output", "json"])));
    let files: Vec<&str> = written.as_array().unwrap().iter().map(|file| file.as_str().unwrap()).collect();
    let names: BTreeSet<&str> = files.iter().filter_map(|file| file.rsplit('/').next()).collect();
    for name in ["ffpool.1", "ffpool-submit.1", "ffpool-jobs-list.1", "ffpool-top.1", "ffpool-scale-advice.1"] {
        assert!(names.contains(name), "{name} is missing in {names:?}");
    }
    for file in &files {
        let text = manual_page(file.as_ref());
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLES", "SEE ALSO"] {
            assert!(text.lines().any(|line| line == section), "{file} has no {section}:\n{text}");
        }
    }
    let first = manual_page(&man1.join("ffpool.1"));
    assert!(
        first.contains("EXIT STATUS") && first.contains("a watched job failed") && first.contains("FFPOOL_API_URL"),
        "{first}"
    );
    let list = manual_page(&man1.join("ffpool-jobs-list.1"));
    assert!(
        list.contains("ffpool jobs list --status running --queue live") && !list.contains("FFPOOL_API_URL"),
        "{list}"
    );

    let said = stderr(&run(2, &mut ffpool(&["man", "/proc/man1"])));
    assert!(said.contains("/proc/man1") && said.contains("in which you may write"), "{said}");
}

#[test]
fn the_completions_of_bash_complete_commands_and_their_options() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ffpool"), run(0, &mut ffpool(&["completions", "bash"])).stdout).unwrap();
    for (typed, expected) in [("ffpool sca", "scale-advice"), ("ffpool jobs li", "list"), ("ffpool top --on", "--once")]
    {
        let words: Vec<&str> = typed.split(' ').collect();
        let last = words.last().unwrap();
        let ask = format!(
            "source ./ffpool; COMP_WORDS=({typed}); COMP_CWORD={}; _ffpool ffpool '{last}' '{}'; echo \"${{COMPREPLY[@]}}\"",
            words.len() - 1,
            words[words.len() - 2]
        );
        let told = Command::new("bash")
            .args(["--norc", "-c", &ask])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let told = stdout(&told);
        assert!(told.split_whitespace().any(|word| word == expected), "{typed}: {told}");
    }
}
