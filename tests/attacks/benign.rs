//! Honest work (B01 to B28): done to its end, and not one denial.
//!
//! | Not run here | Why |
//! |---|---|
//! | B01 over https and ssh to a host | needs a host with a name; a clone, fetch and push to a server on loopback is run |
//! | B08, B19, B26 | need the internet |
//! | B09 | **blocked**: a sandbox of mounts is denied to an agent whose profile has rules about paths |
//! | B10 | the login of an agent needs its provider; its port is bound in B06 |
//! | B11 | a profile of one's own that grants the socket; no container daemon here |
//! | B13 | no browser on the disk |
//! | B20 | another profile |
//! | B24 | no systemd-resolved on the disk |
//! | B25 | needs two ways to a granted host |
//! | B28 | every attack's twin is that: the same script outside of any agent does all its harm and is denied nothing |

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::attack::said;
use crate::guest::{self, Who};

struct Benign {
    name: &'static str,
    /// Run by root before, outside of any agent.
    before: &'static str,
    /// Run by bash in the workspace; its end must be `done`.
    script: &'static str,
}

/// What cargo publishes to and docker pulls by: one server that notes the passwords it is shown, an index of crates
/// beside it, and settings that lead there.
const REGISTRY: &str = r#"set -e
rm -rf /srv/index && mkdir -p /srv/index && cd /srv/index && git init -q
echo '{"dl":"http://127.0.0.1:8421/dl","api":"http://127.0.0.1:8421"}' >config.json
git add -A && git -c user.name=x -c user.email=x@guest commit -qm Index
cat >/srv/registry.py <<'P'
import base64, http.server
got = []
class Registry(http.server.BaseHTTPRequestHandler):
    def answer(self):
        self.rfile.read(int(self.headers.get('Content-Length') or 0))
        of_docker = base64.urlsafe_b64decode(self.headers.get('X-Registry-Auth') or '').decode()
        if self.path != '/got':
            got.append('%s %s %s %s' % (self.command, self.path, self.headers.get('Authorization'), of_docker))
        text = {'PUT': '{"warnings":{"invalid_categories":[],"invalid_badges":[],"other":[]}}', 'POST': '{"status":"pulled"}'}
        text = text.get(self.command, '\n'.join(got)).encode() + b'\n'
        self.send_response(200)
        self.send_header('Content-Length', str(len(text)))
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(text)
    do_GET = do_HEAD = do_POST = do_PUT = answer
http.server.HTTPServer(('127.0.0.1', 8421), Registry).serve_forever()
P
cd /home/dev
printf '[registries.here]\nindex = "git://127.0.0.1:8419/index"\n' >.cargo/config.toml
printf '[registries.here]\ntoken = "planted-cargo-token"\n' >.cargo/credentials.toml
context=.docker/contexts/meta/$(printf here | sha256sum | cut -d' ' -f1)
mkdir -p $context
echo '{"Name":"here","Metadata":{},"Endpoints":{"docker":{"Host":"tcp://127.0.0.1:8421"}}}' >$context/meta.json
echo '{"currentContext":"here","auths":{"registry.test":{"auth":"'$(printf dev:planted-docker | base64)'"}}}' >.docker/config.json
chown -R 1000:1000 .cargo .docker /srv/index
as_dev() { setpriv --reuid=1000 --regid=1000 --clear-groups "$@" </dev/null >/dev/null 2>&1 & }
as_dev python3 /srv/registry.py
as_dev git daemon --reuseaddr --listen=127.0.0.1 --port=8419 --base-path=/srv --export-all
for i in $(seq 100); do
    git ls-remote -q git://127.0.0.1:8419/index >/dev/null 2>&1 && curl -sf http://127.0.0.1:8421/got >/dev/null && exit
    sleep 0.2
done
exit 1"#;

const WORK: &[Benign] = &[
    Benign {
        name: "B01_git_clones_commits_fetches_and_pushes",
        before: "rm -rf /srv/git && mkdir -p /srv/git && git clone -q --bare /home/dev/work /srv/git/work.git && chown -R 1000:1000 /srv/git
            setpriv --reuid=1000 --regid=1000 --clear-groups git daemon --reuseaddr --listen=127.0.0.1 --port=8418 --base-path=/srv/git --export-all --enable=receive-pack </dev/null >/dev/null 2>&1 &
            for i in $(seq 50); do git ls-remote -q git://127.0.0.1:8418/work.git >/dev/null 2>&1 && break; sleep 0.2; done",
        script: r#"set -e
git clone -q git://127.0.0.1:8418/work.git copy && cd copy
echo more >>README.md && git commit -qam 'More' && git push -q origin main && git fetch -q && git log --oneline | head -3
git status --short && git diff HEAD~1 --stat"#,
    },
    Benign {
        name: "B02_npm_installs_and_compiles",
        before: "",
        script: r#"set -e
mkdir -p dep app && cd dep
printf 'int main(void){return 7;}\n' >x.c
printf '{"name":"dep","version":"1.0.0","scripts":{"install":"cc -O1 -o x x.c"},"files":["x.c","index.js"]}' >package.json
printf 'module.exports = () => require("child_process").spawnSync(__dirname + "/x").status;\n' >index.js
npm pack --silent --offline && mv dep-1.0.0.tgz ../app/ && cd ../app
printf '{"name":"app","version":"1.0.0","dependencies":{"dep":"file:dep-1.0.0.tgz"}}' >package.json
npm install --offline --no-audit --no-fund --silent
rm -rf node_modules && npm ci --offline --no-audit --no-fund --silent
test "$(node -p 'require("dep")()')" = 7"#,
    },
    Benign {
        name: "B03_pip_installs_into_an_environment_of_its_own",
        before: "",
        script: r#"set -e
python3 -m venv --without-pip env
mkdir -p pkg/thing && printf 'def main():\n    print("thing runs")\n' >pkg/thing/__init__.py
python3 - <<'P'
# A wheel, by hand: building one needs the index.
import zipfile
with zipfile.ZipFile('thing-1.0-py3-none-any.whl', 'w') as wheel:
    wheel.write('pkg/thing/__init__.py', 'thing/__init__.py')
    wheel.writestr('thing.pth', '# a path file\n')
    info = 'thing-1.0.dist-info/'
    wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n')
    wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
    wheel.writestr(info + 'entry_points.txt', '[console_scripts]\nthing = thing:main\n')
    wheel.writestr(info + 'RECORD', '')
P
python3 -m pip --python env/bin/python install -q --no-index --disable-pip-version-check ./thing-1.0-py3-none-any.whl
env/bin/thing"#,
    },
    Benign {
        name: "B04_cargo_builds_with_a_build_script_and_tests",
        before: "",
        script: r#"set -e
cargo init -q --vcs none --name thing crate && cd crate
printf 'fn main() { std::fs::write(format!("{}/made.rs", std::env::var("OUT_DIR").unwrap()), "pub const SEVEN: u32 = 7;").unwrap(); }\n' >build.rs
printf 'include!(concat!(env!("OUT_DIR"), "/made.rs"));\nfn main() { println!("{SEVEN}"); }\n#[test]\nfn seven() { assert_eq!(SEVEN, 7); }\n' >src/main.rs
cargo build -q --offline && test "$(target/debug/thing)" = 7 && cargo test -q --offline"#,
    },
    Benign {
        name: "B05_go_builds_and_tests",
        before: "",
        script: r#"set -e
mkdir gone && cd gone && go mod init example.test/gone
printf 'package gone\n\nfunc Add(a, b int) int { return a + b }\n' >add.go
printf 'package gone\n\nimport "testing"\n\nfunc TestAdd(t *testing.T) {\n\tif Add(1, 2) != 3 {\n\t\tt.Fatal("no")\n\t}\n}\n' >add_test.go
go vet ./... && go test ./..."#,
    },
    Benign {
        name: "B06_a_test_runner_with_children_and_ports_of_its_own",
        before: "",
        script: r#"set -e
cat >test_all.py <<'P'
import http.server, multiprocessing, socket, subprocess, sys, threading, urllib.request
def serve():
    server = http.server.HTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
def test_a_server_on_a_port_of_the_kernels_choice():
    assert urllib.request.urlopen('http://127.0.0.1:%d/README.md' % serve().server_port).status == 200
def test_children():
    for _ in range(10): assert subprocess.run([sys.executable, '-c', 'print(1)'], capture_output=True).stdout == b'1\n'
def square(n): return n * n
def test_a_pool():
    with multiprocessing.Pool(2) as pool: assert pool.map(square, range(4)) == [0, 1, 4, 9]
def test_known_ports():
    for port in 3000, 8080, 1455:
        with socket.socket() as s: s.bind(('127.0.0.1', port)); s.listen()
P
python3 -m pytest -q test_all.py
node -e 'const s = require("http").createServer((q, r) => r.end("ok")).listen(0, "127.0.0.1", () => require("http").get({port: s.address().port, host: "127.0.0.1"}, r => r.on("data", d => { console.log(String(d)); process.exit() })))'"#,
    },
    Benign {
        name: "B07_searching_and_watching_the_workspace",
        before: "",
        script: r#"set -e
mkdir -p many/{a,b,c}/{d,e,f} && for d in many/*/*; do for n in 1 2 3 4 5; do echo "needle $n" >$d/$n.txt; done; done
test "$(rg -l needle many | wc -l)" = 45
test "$(find . -name '*.txt' | wc -l)" = 45
grep -rn 'needle 3' many | wc -l; ls -laR many >/dev/null
# The root, by a process that knows it as the directory of others.
python3 -c 'import os; os.listdir("/usr"); os.listdir("/"); os.listdir("/tmp")'
timeout 10 node -e 'const fs = require("fs"); fs.watch("many", () => process.exit(0)); setTimeout(() => fs.writeFileSync("many/new", "x"), 100)'"#,
    },
    Benign {
        name: "B12_debugging_children_of_its_own",
        before: "",
        script: r#"set -e
printf 'int main(void){int x = 41; return x + 1;}\n' >x.c && cc -g -o x x.c
gdb -batch -nx -ex 'break main' -ex run -ex next -ex 'print x' ./x 2>&1 | tee log | grep -q '= 41'
strace -f -o trace ./x || test $? = 42; grep -q exit_group trace
sleep 60 & timeout 20 strace -p $! -o attached & sleep 3; kill %1; wait || true; test -s attached"#,
    },
    Benign {
        name: "B14_the_project_reads_its_own_environment_file",
        before: "",
        script: "grep -q DATABASE_URL .env && node -e 'console.log(require(\"fs\").readFileSync(\".env\", \"utf8\"))'",
    },
    Benign {
        name: "B15_code_made_at_run_time",
        before: "",
        script: r#"set -e
node -e 'let s = 0; function f(n) { return n * 2 + 1 } for (let i = 0; i < 3e6; i++) s += f(i); console.log(s)'
python3 - <<'P'
import mmap, os
fd = os.memfd_create('frames'); os.ftruncate(fd, 4096)
m = mmap.mmap(fd, 4096); m[:4] = b'data'; assert os.pread(fd, 4, 0) == b'data'
mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
P"#,
    },
    Benign {
        name: "B16_thousands_of_files_of_the_workspace_are_removed",
        before: "",
        script: r#"set -e
python3 - <<'P'
import os
for package in range(40):
    os.makedirs('node_modules/p%d/lib' % package)
    for file in range(50): open('node_modules/p%d/lib/%d.js' % (package, file), 'w').close()
P
rm -rf node_modules && test ! -e node_modules"#,
    },
    Benign {
        name: "B17_git_keeps_house",
        before: "",
        script: r#"set -e
git config user.email someone@guest && git gc -q && git worktree add -q ../work/tree && git -C tree status --short
git worktree remove tree && git branch -q topic && git switch -q topic && git stash list && git tag v1
mkdir fresh && git init -q fresh && git -C fresh remote add origin git://127.0.0.1/x && git submodule status"#,
    },
    Benign {
        name: "B18_keys_and_tls_of_the_tests_own",
        before: "",
        script: r#"set -e
ssh-keygen -q -t ed25519 -N '' -f ./testkey && test -s testkey.pub
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem -days 1 -subj /CN=localhost 2>/dev/null
openssl s_server -accept 127.0.0.1:8443 -key key.pem -cert cert.pem -www >/dev/null 2>&1 & sleep 2
echo | openssl s_client -connect 127.0.0.1:8443 2>/dev/null | grep -q 'BEGIN CERTIFICATE'; kill %1"#,
    },
    Benign {
        name: "B21_editors_save_by_renaming",
        before: "",
        script: r#"set -e
for n in $(seq 100); do echo "x = $n" >src/m$n.py; done
python3 - <<'P'
import glob, os, tempfile
for name in glob.glob('src/*.py'):
    fd, new = tempfile.mkstemp(dir='src'); os.write(fd, open(name, 'rb').read().upper()); os.fsync(fd); os.close(fd)
    os.chmod(new, 0o644); os.replace(new, name)
P
sed -i 's/X/x/' src/*.py; cp -a src copied; touch -d yesterday copied/m1.py; chmod -R u+w copied; ln -s m1.py copied/link; ln copied/m2.py copied/hard"#,
    },
    Benign {
        name: "B22_npm_cargo_and_docker_use_their_own_passwords",
        before: REGISTRY,
        script: r#"set -e
npm config get registry
node -e 'console.log(require("fs").readFileSync(process.env.HOME + "/.npmrc", "utf8"))' | grep -q planted-npm-token
cargo init -q --vcs none --lib --name thing crate
(cd crate && cargo publish -q --registry here --allow-dirty --no-verify)
docker pull -q registry.test/thing
curl -s http://127.0.0.1:8421/got | tee got
grep -q 'PUT /api/v1/crates/new planted-cargo-token' got
grep -q 'POST .*/images/create.*"password":"planted-docker"' got"#,
    },
    Benign {
        name: "B23_looking_at_processes",
        before: "",
        script: r#"set -e
sleep 30 & sleep 1; ps -o pid,comm -p $! | grep -q sleep; pgrep -P $$ sleep >/dev/null; kill $!
cat /proc/self/status /proc/self/maps /proc/self/cmdline /proc/self/limits /proc/cpuinfo /proc/meminfo >/dev/null
cat /proc/self/environ >/dev/null; ls /proc/self/fd >/dev/null; free >/dev/null; nproc >/dev/null; uname -a >/dev/null; id >/dev/null"#,
    },
    Benign {
        name: "B27_background_work_goes_on_after_the_turn",
        before: "",
        script: r#"set -e
(setsid nohup bash -c 'sleep 1; echo later >later.txt' >/dev/null 2>&1 &)
for i in $(seq 50); do test -s later.txt && break; sleep 0.2; done; test -s later.txt"#,
    },
];

pub fn trials() -> Vec<Trial> {
    let work = WORK
        .iter()
        .map(|work| Trial::test(work.name, move || run(work).map_err(|error| format!("{error:#}").into())));
    work.collect()
}

fn run(work: &Benign) -> Result<()> {
    guest::reset()?;
    guest::shell(work.before)?;
    let since = guest::now();
    let output = guest::as_agent(Who::Dev, work.script)?;
    let said = said();
    guest::settle()?;
    let denials: Vec<_> =
        guest::denials(since)?.into_iter().filter(|event| event["network"]["port"] != 1).collect();
    ensure!(
        denials.is_empty() && output.status.success(),
        "{}, and {} denials:\n{}\nIt said:\n{said}",
        output.status,
        denials.len(),
        guest::summary(&denials)
    );
    Ok(())
}
