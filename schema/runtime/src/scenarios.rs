//! The operator's scenario file: TOML, or JSON where its name ends so.
//!
//! Invariant: a file that is wrong anywhere is not used at all.

use std::fmt;
use std::path::{Path, PathBuf};

use ffpool_schema::catalog::{Catalog, CatalogFile};
use ffpool_schema::parse::Fault;

/// A scenario file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioFileError {
    /// It cannot be read.
    #[error("read the scenario file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not written in its language, or has fields that there are not.
    #[error("the scenario file {} cannot be understood: {reason}", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// What it says is not valid.
    #[error("the scenario file {} is not valid:{}", path.display(), Lines(faults))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong with it.
        faults: Vec<Fault>,
    },
}

struct Lines<'f>(&'f [Fault]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

/// Reads and checks a scenario file.
///
/// # Errors
/// See [`ScenarioFileError`].
pub fn load(path: &Path) -> Result<Catalog, ScenarioFileError> {
    let text = std::fs::read_to_string(path).map_err(|source| ScenarioFileError::Read { path: path.into(), source })?;
    let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let read: Result<CatalogFile, String> = if is_json {
        serde_json::from_str(&text).map_err(|error| error.to_string())
    } else {
        toml::from_str(&text).map_err(|error| error.to_string())
    };
    let file = read.map_err(|reason| ScenarioFileError::Form { path: path.into(), reason })?;
    Catalog::new(&file).map_err(|faults| ScenarioFileError::Invalid { path: path.into(), faults })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(name: &str, text: &str) -> Result<Catalog, ScenarioFileError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        load(&path)
    }

    #[test]
    fn both_languages_say_the_same() {
        let toml = loaded(
            "s.toml",
            r#"
            [scenarios.house]
            extends = "1080p30-h264"
            parameters = { crf = 20, fps = 25.0 }
            [templates.news]
            required = ["title"]
            job.scenario = "house"
            job.labels.show = "{title}"
            "#,
        )
        .unwrap();
        let json = loaded(
            "s.JSON",
            r#"{"scenarios": {"house": {"extends": "1080p30-h264", "parameters": {"crf": 20, "fps": 25.0}}},
                "templates": {"news": {"required": ["title"], "job": {"scenario": "house", "labels": {"show": "{title}"}}}}}"#,
        )
        .unwrap();
        assert_eq!(toml, json);
    }

    #[test]
    fn a_file_that_cannot_be_used_says_where() {
        let said = |text: &str| loaded("s.toml", text).unwrap_err().to_string();
        assert!(said("[scenarios.a]\nextend = 'x'").contains("line 2"), "{}", said("[scenarios.a]\nextend = 'x'"));
        assert!(said("[scenarios.a]\nextends = 'a'").contains("scenarios.a.extends: it extends itself: a -> a"));
        assert!(load(Path::new("/nonexistent.toml")).unwrap_err().to_string().contains("/nonexistent.toml"));
    }
}
