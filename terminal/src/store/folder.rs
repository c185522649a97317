//! Folders held open. Everything below the user's folder is reached name by name from an open folder and never through a symbolic link, so that
//! neither a manifest nor somebody with access to the folder can make this program write elsewhere.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use protocol::Bytes;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

#[derive(Debug)]
pub(super) struct Folder {
    fd: OwnedFd,
    /// For messages only.
    path: PathBuf,
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Open {
    Read,
    /// Read and write; made if it is not there.
    Write,
    /// Read and write, empty; made if it is not there.
    Fresh,
}

impl Folder {
    /// The user's folder, made if it is not there. This path may lead through links: it is the user's choice.
    pub(super) fn root(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let fd = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// A folder that is there already.
    pub(super) fn existing(path: &Path) -> io::Result<Self> {
        let fd = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { fd, path: path.to_owned() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The folder `name` in this one.
    ///
    /// # Errors
    /// `ELOOP` or `ENOTDIR` if the name is a link or a file.
    pub(super) fn child(&self, name: &str, make: bool) -> io::Result<Self> {
        if make {
            match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self { fd: rustix::fs::openat(&self.fd, name, flags, Mode::empty())?, path: self.path.join(name) })
    }

    /// The folder that the last name of `path` lies in, and that name. The folders between are made if `make`.
    pub(super) fn descend<'p>(&self, path: &'p str, make: bool) -> io::Result<(Self, &'p str)> {
        let mut folder = Self { fd: self.fd.try_clone()?, path: self.path.clone() };
        let mut rest = path;
        while let Some((name, tail)) = rest.split_once('/') {
            folder = folder.child(name, make)?;
            rest = tail;
        }
        Ok((folder, rest))
    }

    pub(super) fn open(&self, name: &str, how: Open) -> io::Result<File> {
        let flags = match how {
            Open::Read => OFlags::RDONLY,
            Open::Write => OFlags::RDWR | OFlags::CREATE,
            Open::Fresh => OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC,
        };
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(0o666))?);
        // A pipe or device under this name would hold the reader for ever, or do worse.
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    /// Whether anything at all has this name.
    pub(super) fn has(&self, name: &str) -> io::Result<bool> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether this is the folder that has the name in `parent` now.
    pub(super) fn is_at(&self, parent: &Self, name: &str) -> io::Result<bool> {
        let own = rustix::fs::fstat(&self.fd)?;
        match rustix::fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => Ok((there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves a file into `to` under a name that must be free.
    ///
    /// # Errors
    /// `AlreadyExists` if it is not.
    pub(super) fn move_new(&self, name: &str, to: &Self, new_name: &str) -> io::Result<()> {
        match rustix::fs::renameat_with(&self.fd, name, &to.fd, new_name, RenameFlags::NOREPLACE) {
            // Some file systems (FAT among them) cannot promise it. Then looking first is the best there is.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if !to.has(new_name)? => {
                Ok(rustix::fs::renameat(&self.fd, name, &to.fd, new_name)?)
            }
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Err(io::ErrorKind::AlreadyExists.into()),
            other => Ok(other?),
        }
    }

    /// Moves a file within this folder, over another one if there is one.
    pub(super) fn move_over(&self, name: &str, new_name: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, name, &self.fd, new_name)?)
    }

    /// Removes a file; that it is not there is no error.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a folder if it is empty; that it is not there is no error. Answers whether it is gone.
    pub(super) fn remove_folder(&self, name: &str) -> io::Result<bool> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The names in this folder, sorted. Names that are no text are passed over: this program makes none.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let name = entry?.file_name().to_owned().into_string().ok();
            names.extend(name.filter(|name| name != "." && name != ".."));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Makes the names in this folder survive a power cut.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
    }

    /// Makes everything on this file system survive a power cut.
    pub(super) fn sync_all(&self) -> io::Result<()> {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        return Ok(rustix::fs::syncfs(&self.fd)?);
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        {
            rustix::fs::sync();
            Ok(())
        }
    }

    /// What an ordinary user may still write to this file system.
    pub(super) fn room(&self) -> io::Result<Bytes> {
        let stat = rustix::fs::fstatvfs(self.fd.as_fd())?;
        Ok(Bytes(stat.f_bavail.saturating_mul(stat.f_frsize)))
    }
}
