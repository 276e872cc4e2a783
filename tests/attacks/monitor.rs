//! Against the monitor itself (A25).

use crate::attack::{Attack, Harm};
use crate::guest::Who;

pub const ATTACKS: &[Attack] = &[Attack {
    name: "A25_root_neither_ends_nor_blinds_the_monitor",
    who: Who::Root,
    before: "sed -i /pwned/d /etc/agent-monitor/profiles.d/guest.yaml",
    // Its end comes last: after it there is nobody to attack.
    script: r#"
pid=$(pgrep -xo agent-monitor)
kill -STOP $pid && echo got stop; kill -CONT $pid
echo '# pwned' >>/etc/agent-monitor/profiles.d/guest.yaml && echo got profile
cd /usr/local/bin; mv agent-monitor gone && echo got binary && mv gone agent-monitor
cd /var/log/agent-monitor; truncate -s 0 log && echo got log
mv events.jsonl gone && echo got events && mv gone events.jsonl
mount -t tmpfs none /sys/fs/bpf && echo got mount && umount /sys/fs/bpf
python3 - <<'P'
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
def bpf(command, *words):
    attribute = ctypes.create_string_buffer(struct.pack('%dI' % len(words), *words), 128)
    result = libc.syscall(321, command, attribute, 128)
    return result, struct.unpack('I', attribute[4:8])[0]
# BPF_LINK_GET_NEXT_ID, BPF_LINK_GET_FD_BY_ID, BPF_LINK_DETACH.
number = detached = 0
while True:
    done, number = bpf(31, number)
    if done < 0: break
    link, _ = bpf(30, number)
    if link >= 0 and bpf(34, link)[0] == 0: detached += 1
print('got links' if detached else ('links', ctypes.get_errno()))
P
rm -r /sys/fs/bpf/agent-monitor 2>/dev/null && echo got pins
kill -KILL $pid && echo got end"#,
    harm: Harm::Said("got ", 9),
    told: &[
        &["\"protected\"", "SIGKILL", "\"EPERM\""],
        &["\"protected\"", "/etc/agent-monitor/profiles.d/guest.yaml", "\"EACCES\""],
        // No profile needs to grant these for the monitor to be safe; the shipped one does not.
        &["/usr/local/bin/gone", "lsm/path_rename", "\"EACCES\""],
        &["/var/log/agent-monitor/log", "\"EACCES\""],
        &["/sys/fs/bpf/agent-monitor", "lsm/path_unlink", "\"EACCES\""],
        &["lsm/sb_mount", "\"EPERM\""],
        &["lsm/bpf", "\"EPERM\""],
    ],
}];
