//! What a job says that its input is, held against what there is.
//!
//! Invariant: whatever does not agree is [`Cause::InputMismatch`], with both in its evidence. It stays: no other try at the same
//! input in this attempt would bring anything else.

use ffpool_schema::failure::Cause;
use ffpool_schema::job::JobSpec;

use super::trouble::Trouble;

/// What a job says that its input is; nothing where it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stated {
    /// Hex sha256.
    pub sha256: Option<String>,
    /// Size in bytes.
    pub size_bytes: Option<u64>,
}

impl Stated {
    /// What this job says.
    #[must_use]
    pub fn of(spec: &JobSpec) -> Stated {
        let sha256 = spec.input_sha256.as_ref().map(|sum| sum.as_str().to_owned());
        Stated { sha256, size_bytes: spec.input_size_bytes }
    }

    /// Holds the size of the whole against it.
    ///
    /// # Errors
    /// When the job says another.
    pub fn check_size(&self, found: u64) -> Result<(), Trouble> {
        match self.size_bytes {
            Some(stated) if stated != found => Err(other_size(stated, &format!("{found} bytes"))),
            Some(_) | None => Ok(()),
        }
    }

    /// Holds what has arrived so far against it.
    ///
    /// # Errors
    /// When it is more than the job says of the whole.
    pub fn check_part(&self, found: u64) -> Result<(), Trouble> {
        match self.size_bytes {
            Some(stated) if stated < found => Err(other_size(stated, "more")),
            Some(_) | None => Ok(()),
        }
    }

    /// Holds a sha256 against it. `whose`: where it is from, in words.
    ///
    /// # Errors
    /// When the job says another.
    pub fn check_sha256(&self, found: &str, whose: &str) -> Result<(), Trouble> {
        match &self.sha256 {
            Some(stated) if stated != found => {
                let message = format!("the input is not what the job says: {whose} is not its `input_sha256`");
                let evidence = format!("expected sha256 {stated}, found {found}");
                Err(Trouble { evidence: Some(evidence), ..Trouble::lasting(Cause::InputMismatch, message) })
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn other_size(stated: u64, found: &str) -> Trouble {
    let message = format!("the input has {found}, and not the {stated} bytes that the job says");
    let evidence = format!("expected {stated} bytes, found {found}");
    Trouble { evidence: Some(evidence), ..Trouble::lasting(Cause::InputMismatch, message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_job_does_not_say_is_not_held_against_the_input() {
        let silent = Stated::of(&JobSpec::new("480p30-h264"));
        assert!(silent.check_size(7).is_ok() && silent.check_part(7).is_ok() && silent.check_sha256("ab", "x").is_ok());
    }

    #[test]
    fn what_does_not_agree_is_told_with_both() {
        let stated = Stated { sha256: Some("ab".repeat(32)), size_bytes: Some(10) };
        assert!(stated.check_size(10).is_ok() && stated.check_part(3).is_ok() && stated.check_part(10).is_ok());
        assert!(stated.check_sha256(&"ab".repeat(32), "x").is_ok());
        for (trouble, evidence) in [
            (stated.check_size(9).unwrap_err(), "expected 10 bytes, found 9 bytes".to_owned()),
            (stated.check_part(11).unwrap_err(), "expected 10 bytes, found more".to_owned()),
            (
                stated.check_sha256("cd", "the sum").unwrap_err(),
                format!("expected sha256 {}, found cd", "ab".repeat(32)),
            ),
        ] {
            assert_eq!((trouble.cause, trouble.is_passing), (Cause::InputMismatch, false), "{trouble:?}");
            assert_eq!(trouble.evidence, Some(evidence));
        }
    }
}
