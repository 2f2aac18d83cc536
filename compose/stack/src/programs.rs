//! Finds the servers' programs.
//!
//! RabbitMQ's own directory comes before `PATH`, because Debian's `/usr/sbin/rabbitmq-server` is a wrapper that insists
//! on its own user; so does the newest Postgres, because Debian keeps its server programs off `PATH`.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use crate::StackError;

const RABBITMQ_PROGRAMS: &str = "/usr/lib/rabbitmq/bin";
const POSTGRES_VERSIONS: &str = "/usr/lib/postgresql";
const SYSTEM_PROGRAMS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The directories in which programs are looked for, in order.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    directories: Vec<PathBuf>,
}

impl Programs {
    /// Where the programs of this machine are.
    pub(crate) fn installed() -> Programs {
        let mut directories = vec![PathBuf::from(RABBITMQ_PROGRAMS)];
        directories.extend(postgres_newest_first(Path::new(POSTGRES_VERSIONS)));
        directories.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        directories.extend(SYSTEM_PROGRAMS.map(PathBuf::from));
        Programs { directories }
    }

    /// Only these directories.
    pub(crate) fn only(directories: Vec<PathBuf>) -> Programs {
        Programs { directories }
    }

    /// The path of a program, or the name of the package that brings it.
    pub(crate) fn find(&self, program: &'static str, package: &'static str) -> Result<PathBuf, StackError> {
        self.directories
            .iter()
            .map(|directory| directory.join(program))
            .find(|path| path.is_file())
            .ok_or(StackError::Missing { program, package })
    }

    /// A `PATH` for the servers themselves, which call `erl`, `sed` and the like.
    pub(crate) fn search_path() -> String {
        let mut path = env::var("PATH").unwrap_or_default();
        for directory in SYSTEM_PROGRAMS {
            path.push(':');
            path.push_str(directory);
        }
        path
    }
}

fn postgres_newest_first(versions: &Path) -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(versions)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, path)| path).collect()
}
