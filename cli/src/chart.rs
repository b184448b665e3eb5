//! The Helm chart that this binary carries, so that a version of `trellis` installs that version of
//! Trellis, whatever else lies around.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use include_dir::{Dir, DirEntry, include_dir};
use tempfile::TempDir;

static CHART: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../charts/trellis");

/// What Helm is not told to leave out but does not need either.
const LEFT_OUT: &str = "tests";

/// The chart in a folder of its own, which goes when this is dropped.
pub struct Unpacked {
    folder: TempDir,
}

impl Unpacked {
    pub fn new() -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("trellis-chart-").tempdir()?;
        unpack(&CHART, &folder.path().join("trellis"))?;
        Ok(Self { folder })
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("trellis")
    }
}

fn unpack(from: &Dir<'_>, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in from.entries() {
        let Some(name) = entry.path().file_name() else { continue };
        if name == LEFT_OUT {
            continue;
        }
        match entry {
            DirEntry::Dir(inner) => unpack(inner, &to.join(name))?,
            DirEntry::File(file) => fs::write(to.join(name), file.contents())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_is_complete_and_its_folder_goes_with_it() {
        let chart = Unpacked::new().unwrap();
        let path = chart.path();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/trellis");
        for file in ["Chart.yaml", ".helmignore", "values.schema.json", "templates/ca/deployment.yaml"] {
            assert_eq!(fs::read(path.join(file)).unwrap(), fs::read(source.join(file)).unwrap(), "{file}");
        }
        assert!(!path.join(LEFT_OUT).exists());
        drop(chart);
        assert!(!path.exists());
    }

    #[test]
    fn the_chart_installs_this_version() {
        let chart = CHART.get_file("Chart.yaml").and_then(|file| file.contents_utf8()).unwrap();
        for key in ["version", "appVersion"] {
            let line = format!("\n{key}: {}\n", env!("CARGO_PKG_VERSION"));
            assert!(chart.contains(&line), "Chart.yaml has no line `{}`", line.trim());
        }
    }
}
