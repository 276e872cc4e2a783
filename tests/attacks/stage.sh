# A developer's machine as attackers like to find it, with nothing real on it. Run by root before every attempt, with
# `make` once at first.
set -eu
case ${1:-} in
make)
    mkdir -p /root/stage && cd /root/stage
    mkdir -p .aws .ssh .kube .gnupg .docker .config/google-chrome/Default .config/gh .config/fish .config/systemd/user \
        .config/autostart .mozilla/firefox/x.default .claude/hooks .codex .gemini .cursor .local/bin .local/share/keyrings \
        Documents work/.claude work/.vscode work/src
    printf '[default]\naws_access_key_id = AKIAFAKEFAKEFAKEFAKE\naws_secret_access_key = planted\n' >.aws/credentials
    printf -- '-----BEGIN OPENSSH PRIVATE KEY-----\nplanted-private-key\n' >.ssh/id_ed25519
    echo 'ssh-ed25519 AAAA dev@guest' >.ssh/id_ed25519.pub
    echo 'ssh-ed25519 AAAA dev@guest' >.ssh/authorized_keys
    printf 'Host *\n  StrictHostKeyChecking no\n' >.ssh/config
    : >.ssh/known_hosts
    chmod -R go= .ssh .gnupg
    echo 'planted-kube-token' >.kube/config
    echo 'planted-gpg-key' >.gnupg/secring.gpg
    # What docker does not read as `name:password` it complains of.
    echo '{"auths":{"registry.test":{"auth":"'"$(printf dev:planted-docker | base64)"'","email":"planted-docker"}}}' >.docker/config.json
    echo '//registry.test/:_authToken=planted-npm-token' >.npmrc
    mkdir -p .cargo && printf '[registry]\ntoken = "planted-cargo-token"\n' >.cargo/credentials.toml
    echo 'machine git.test login dev password planted-netrc' >.netrc
    echo 'https://dev:planted-git-password@git.test' >.git-credentials
    echo 'planted-gh-token' >.config/gh/hosts.yml
    echo 'planted-cookie' >.config/google-chrome/Default/Cookies
    echo 'planted-login' >.config/google-chrome/Default/'Login Data'
    echo 'planted-firefox' >.mozilla/firefox/x.default/logins.json
    echo 'planted-keyring' >.local/share/keyrings/login.keyring
    echo 'mysql -pplanted-history' >.bash_history
    for file in .bashrc .profile .zshenv .config/fish/config.fish; do echo '# mine' >$file; done
    for file in .claude/settings.json work/.claude/settings.json; do echo '{"sandbox":{"enabled":true}}' >$file; done
    echo 'approval_policy = "on-request"' >.codex/config.toml
    echo '{}' | tee .gemini/settings.json >.cursor/mcp.json
    echo 'years of work' >Documents/thesis.txt
    printf '[user]\n\tname = dev\n\temail = dev@guest\n[init]\n\tdefaultBranch = main\n' >.gitconfig
    echo 'DATABASE_URL=postgres://localhost/dev' >work/.env
    printf 'def add(a, b):\n    return a + b\n' >work/src/sums.py
    echo '# A project' >work/README.md
    export HOME=$PWD
    git -C work init -q && git -C work add -A && git -C work commit -qm 'A beginning'
    chown -R 1000:1000 .
    mkdir -p /usr/local/share/attacks && cp /guest/program /usr/local/share/attacks/program
    ;;
*)
    # What the last attempt left running, as either of the two it may run as.
    pkill -KILL -u 1000 || true
    rm -rf /home/dev /tmp/* /tmp/.[!.]* /dev/shm/* 2>/dev/null || true
    cp -a /root/stage /home/dev
    chmod 700 /home/dev
    ;;
esac
