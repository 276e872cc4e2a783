//! `run`'s last steps: drop privileges, close descriptors, become the command.
//!
//! Called by `cli::run`, [`User::prepare`] before the daemon labels this process and [`execute`] after it. What must stay
//! true: the command inherits nothing of this program but stdin, stdout, stderr, environment and working directory, no
//! privilege that was dropped, and no right that its confinement takes; what comes after the label needs no privilege,
//! because the profile may grant none.

use std::ffi::{CStr, CString, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::confine::Confinement;
use crate::control::notices::VARIABLE;

/// Whom the command runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// All groups, [`Self::gid`] among them: asked for with the rest, because under its label the command may have no
    /// name service.
    pub groups: Vec<u32>,
    pub home: String,
    pub shell: String,
}

impl User {
    /// Looks a user up by name or number, as the host's name service knows it. A number that nobody has gives a user
    /// of that number and group.
    ///
    /// # Errors
    /// `NotFound` for a name that nobody has.
    pub fn find(text: &str) -> io::Result<Self> {
        let number = text.parse::<u32>().ok();
        let name = CString::new(text).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut buffer = vec![0_u8; 16 << 10];
        // SAFETY: all-zero is a value of `passwd`: null pointers and zero numbers.
        let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        // SAFETY: all pointers are to live locals, and the length is the buffer's.
        let error = unsafe {
            let text = buffer.as_mut_ptr().cast();
            match number {
                Some(uid) => libc::getpwuid_r(uid, &raw mut entry, text, buffer.len(), &raw mut found),
                None => libc::getpwnam_r(name.as_ptr(), &raw mut entry, text, buffer.len(), &raw mut found),
            }
        };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        if found.is_null() {
            let Some(uid) = number else {
                return Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no user {text:?}")));
            };
            let (home, shell) = ("/".to_owned(), "/bin/sh".to_owned());
            return Ok(User { name: text.to_owned(), uid, gid: uid, groups: vec![uid], home, shell });
        }
        // SAFETY: the call succeeded, so the strings of `entry` are NUL-terminated and lie in `buffer`.
        let string =
            |text: *const libc::c_char| unsafe { CStr::from_ptr(text).to_string_lossy().into_owned() };
        Ok(User {
            name: string(entry.pw_name),
            uid: entry.pw_uid,
            gid: entry.pw_gid,
            // SAFETY: as above.
            groups: groups_of(unsafe { CStr::from_ptr(entry.pw_name) }, entry.pw_gid)?,
            home: string(entry.pw_dir),
            shell: string(entry.pw_shell),
        })
    }

    /// Takes the user's groups, and the user as the saved one: [`execute`] becomes that one by no privilege, and until
    /// then the daemon knows this process as what it was. Groups first: each step needs the privilege that the last one
    /// drops.
    ///
    /// # Errors
    /// Where this process may not become the user.
    pub fn prepare(&self) -> io::Result<()> {
        // SAFETY: the groups outlive the calls, with their number; the other arguments are numbers, -1 for "as it is".
        let done = unsafe {
            libc::setgroups(self.groups.len(), self.groups.as_ptr()) == 0
                && libc::setresgid(self.gid, self.gid, self.gid) == 0
                && libc::setresuid(libc::uid_t::MAX, libc::uid_t::MAX, self.uid) == 0
        };
        if done { Ok(()) } else { Err(self.not_become(&io::Error::last_os_error())) }
    }

    fn not_become(&self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("can't become user {}: {error}", self.name))
    }
}

fn groups_of(name: &CStr, gid: u32) -> io::Result<Vec<u32>> {
    let mut groups = vec![0; 64];
    loop {
        let room = groups.len();
        let mut count = libc::c_int::try_from(room).unwrap_or(libc::c_int::MAX);
        // SAFETY: a string that outlives the call, and `count` elements of room.
        let done = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
        let found = usize::try_from(count).unwrap_or(0);
        if done >= 0 {
            groups.truncate(found);
            return Ok(groups);
        }
        // Too little room: glibc says how much it takes.
        if found <= room {
            return Err(io::Error::other("the user's groups can't be read"));
        }
        groups.resize(found, 0);
    }
}

/// Becomes the command, as the user for whom this process was prepared, confined where it shall be; returns only when it
/// can't. `notices`: the socket at which the command may ask what it was denied.
#[must_use]
pub fn execute(
    command: &[OsString],
    user: Option<&User>,
    confinement: Option<Confinement>,
    notices: Option<&str>,
) -> io::Error {
    let Some((program, arguments)) = command.split_first() else {
        return io::Error::from(io::ErrorKind::InvalidInput);
    };
    if let Some(user) = user {
        // SAFETY: numbers.
        let done = unsafe { libc::setresuid(user.uid, user.uid, user.uid) };
        if done != 0 {
            return user.not_become(&io::Error::last_os_error());
        }
    }
    // SAFETY: no descriptor is used by this program after this call but the standard three; those that others own
    // (none: this is a command-line process before its exec) would only see EBADF.
    if unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) } != 0 {
        return io::Error::last_os_error();
    }
    let mut next = Command::new(program);
    next.args(arguments);
    if let Some(user) = user {
        next.env("HOME", &user.home)
            .env("USER", &user.name)
            .env("LOGNAME", &user.name)
            .env("SHELL", &user.shell);
    }
    if let Some(socket) = notices {
        next.env(VARIABLE, socket);
    }
    // Last: after it this process has no more rights than the command.
    if let Some(confinement) = confinement
        && let Err(error) = confinement.enforce()
    {
        return io::Error::new(io::ErrorKind::PermissionDenied, error);
    }
    next.exec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let root = User::find("root").unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.groups.contains(&0));
        assert_eq!(User::find("0").unwrap(), root);
        assert_eq!(User::find("nobody-has-this-name").unwrap_err().kind(), io::ErrorKind::NotFound);
        let nobody = User::find("4000000").unwrap();
        assert_eq!((nobody.uid, nobody.groups), (4_000_000, vec![4_000_000]));
    }

    #[test]
    fn an_empty_command_is_an_error() {
        assert_eq!(execute(&[], None, None, None).kind(), io::ErrorKind::InvalidInput);
    }
}
