//! The PIN: read from its file each time, and never tried twice after it was refused.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

/// No token takes a longer one.
const MAX: u64 = 256;

/// One state of the PIN's file.
#[derive(Clone, PartialEq, Eq)]
pub struct Written {
    text: Zeroizing<String>,
    changed: (i64, i64),
}

/// What the token said to a PIN that it did not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    Refused,
    Locked,
}

/// Remembers the PIN that the token did not take.
#[derive(Default)]
pub struct Memory(Option<(Written, Rejected)>);

impl Written {
    pub fn read(file: &Path) -> Result<Self, String> {
        let about = fs::metadata(file).map_err(|error| format!("{error}; write the user PIN into it"))?;
        if about.len() > MAX {
            return Err(format!(
                "it is {} bytes, more than any PIN; write only the user PIN into it",
                about.len()
            ));
        }
        let text = Zeroizing::new(fs::read_to_string(file).map_err(|error| error.to_string())?);
        let text = Zeroizing::new(text.trim_end_matches(['\n', '\r']).to_owned());
        match text.is_empty() {
            true => Err("it is empty; write the user PIN into it".to_owned()),
            false => Ok(Self { text, changed: (about.mtime(), about.mtime_nsec()) }),
        }
    }

    pub fn pin(&self) -> AuthPin {
        AuthPin::from(self.text.as_str().to_owned())
    }
}

impl Memory {
    /// Why this PIN is not to be tried.
    pub fn forbids(&self, pin: &Written) -> Option<Rejected> {
        self.0.as_ref().filter(|(rejected, _)| rejected == pin).map(|(_, why)| *why)
    }

    pub fn rejected(&mut self, pin: Written, why: Rejected) {
        self.0 = Some((pin, why));
    }

    pub fn accepted(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_pin_is_tried_again_only_when_its_file_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pin");
        for (content, said) in [("", "empty"), ("\n", "empty"), (&*"9".repeat(300), "300 bytes")] {
            fs::write(&file, content).unwrap();
            let error = Written::read(&file).err().unwrap();
            assert!(error.contains(said), "{error}");
        }
        fs::write(&file, "1234\n").unwrap();
        let (mut memory, first) = (Memory::default(), Written::read(&file).unwrap());
        assert_eq!(memory.forbids(&first), None);
        memory.rejected(first, Rejected::Refused);
        let again = Written::read(&file).unwrap();
        assert_eq!(memory.forbids(&again), Some(Rejected::Refused));
        fs::write(&file, "5678").unwrap();
        assert_eq!(memory.forbids(&Written::read(&file).unwrap()), None);
    }
}
