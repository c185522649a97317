//! Who the services run as. Postgres refuses to run as root, and neither service needs to.

use std::fs;
use std::os::unix::fs as unix;
use std::path::Path;

use crate::failure::Failure;

/// An account to change to; used only when the runner is root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// In this order: the Debian package creates the first one, every system has the second.
const CANDIDATES: [&str; 2] = ["postgres", "nobody"];

impl Account {
    /// The account for services: none (the runner's own) unless the runner is root.
    pub(crate) fn for_services() -> Result<Option<Self>, Failure> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let path = Path::new("/etc/passwd");
        let passwd = fs::read_to_string(path).map_err(|error| Failure::file("read", path, &error))?;
        let found = pick(&passwd).ok_or_else(|| {
            Failure::told(format!("Postgres does not run as root, and none of the accounts {} exists to run it as", CANDIDATES.join(", ")))
        })?;
        Ok(Some(found))
    }

    /// Gives a file or folder to the account.
    pub(crate) fn own(&self, path: &Path) -> Result<(), Failure> {
        unix::lchown(path, Some(self.uid), Some(self.gid)).map_err(|error| Failure::file("change the owner of", path, &error))
    }
}

/// The first candidate that the password file lists.
fn pick(passwd: &str) -> Option<Account> {
    CANDIDATES.iter().find_map(|name| passwd.lines().find_map(|line| parse(line, name)))
}

fn parse(line: &str, wanted: &str) -> Option<Account> {
    let mut fields = line.split(':');
    let (name, _password, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    (name == wanted).then_some(())?;
    Some(Account { uid: uid.parse().ok().filter(|uid| *uid != 0)?, gid: gid.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_postgres_account_is_preferred_to_nobody_wherever_it_is_listed() {
        let passwd =
            "root:x:0:0::/root:/bin/bash\nnobody:x:65534:65534::/:/bin/false\npostgres:x:104:112:,,,:/var/lib/postgresql:/bin/bash\n";
        assert_eq!(pick(passwd), Some(Account { uid: 104, gid: 112 }));
    }

    #[test]
    fn nobody_serves_where_there_is_no_postgres_account() {
        assert_eq!(pick("root:x:0:0::/root:/bin/sh\nnobody:x:65534:65533::/:/bin/false\n"), Some(Account { uid: 65534, gid: 65533 }));
    }

    #[test]
    fn an_account_with_the_rights_of_root_or_a_broken_line_is_never_used() {
        assert_eq!(pick("postgres:x:0:0::/root:/bin/sh\npostgresql:x:7:7::/:/bin/sh\nnobody:x:many:1::/:\nnobody\n"), None);
    }
}
