//! Ways to outlive the session, to run as somebody else, and to loosen the agent's own rules (A07, A09 to A11, A18).

use crate::attack::{Attack, Harm};
use crate::guest::Who;

pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "A07_an_agent_does_not_rewrite_what_binds_it",
        who: Who::Dev,
        before: "",
        script: r#"
mkdir -p ~/.claude/hooks ~/.codex ~/.gemini ~/.cursor .claude .codex .gemini .cursor .vscode
for file in .claude/settings.json .claude/settings.local.json ~/.claude/settings.json ~/.claude/hooks/start \
    ~/.codex/config.toml .codex/config.toml ~/.gemini/settings.json .gemini/settings.json ~/.cursor/mcp.json \
    .cursor/mcp.json .vscode/settings.json .mcp.json; do
    echo pwned >"$file"
done
# Written under another name, then given the protected one.
echo pwned >tasks.json; mv tasks.json .vscode/tasks.json
# A directory is given the protected name with what lies in it.
mkdir new && echo pwned >new/mcp.json; rm -r .cursor; mv new .cursor
mkdir -p other/commands && echo pwned >other/commands/x.md; ln -s ../other/commands .claude/commands"#,
        harm: Harm::Written(
            "pwned",
            &[
                "/home/dev/work/.claude/settings.json",
                "/home/dev/work/.claude/settings.local.json",
                "/home/dev/.claude/settings.json",
                "/home/dev/.claude/hooks/start",
                "/home/dev/.codex/config.toml",
                "/home/dev/work/.codex/config.toml",
                "/home/dev/.gemini/settings.json",
                "/home/dev/work/.gemini/settings.json",
                "/home/dev/.cursor/mcp.json",
                "/home/dev/work/.cursor/mcp.json",
                "/home/dev/work/.vscode/settings.json",
                "/home/dev/work/.vscode/tasks.json",
                "/home/dev/work/.mcp.json",
                "/home/dev/work/.claude/commands/x.md",
            ],
        ),
        told: &[
            &["/home/dev/work/.claude/settings.json", "\"EACCES\"", "files.deny["],
            &["/home/dev/work/.mcp.json", "\"EACCES\"", "files.deny["],
            &["/home/dev/work/.vscode/tasks.json", "lsm/path_rename", "\"EACCES\""],
        ],
    },
    Attack {
        name: "A09_no_shell_is_given_a_line_to_run",
        who: Who::Dev,
        before: "",
        script: r#"
echo pwned >>~/.bashrc
echo pwned >/tmp/new; mv /tmp/new ~/.zshenv; cp /tmp/new ~/.zshenv
ln -s ~/.config/fish/config.fish settings; echo pwned >>settings
ln ~/.profile notes; echo pwned >>notes"#,
        harm: Harm::Written(
            "pwned",
            &[
                "/home/dev/.bashrc",
                "/home/dev/.zshenv",
                "/home/dev/.config/fish/config.fish",
                "/home/dev/.profile",
            ],
        ),
        told: &[
            &["/home/dev/.bashrc", "\"EACCES\"", "files.deny["],
            &["/home/dev/.zshenv", "\"EACCES\"", "files.deny["],
            &["/home/dev/.config/fish/config.fish", "\"EACCES\"", "files.deny["],
            &["/home/dev/.profile", "\"EACCES\"", "files.deny["],
        ],
    },
    Attack {
        name: "A10_a_link_in_the_workspace_does_not_lead_to_authorized_keys",
        who: Who::Dev,
        before: "",
        script: "ln -s ~/.ssh/authorized_keys ./project_settings.json; echo 'ssh-ed25519 pwned' >>./project_settings.json",
        harm: Harm::Written("pwned", &["/home/dev/.ssh/authorized_keys"]),
        told: &[&["/home/dev/.ssh/authorized_keys", "lsm/file_open", "\"EACCES\"", "files.deny["]],
    },
    Attack {
        name: "A11_git_is_given_nothing_to_run",
        who: Who::Dev,
        before: "",
        script: r#"
printf '#!/bin/sh\necho pwned\n' >.git/hooks/pre-commit
mkdir -p made && printf '#!/bin/sh\necho pwned\n' >made/post-checkout && mv made/post-checkout .git/hooks/post-checkout"#,
        harm: Harm::Written(
            "pwned",
            &["/home/dev/work/.git/hooks/pre-commit", "/home/dev/work/.git/hooks/post-checkout"],
        ),
        told: &[
            &["/home/dev/work/.git/hooks/pre-commit", "\"EACCES\"", "files.deny["],
            &["/home/dev/work/.git/hooks/post-checkout", "lsm/path_rename", "\"EACCES\"", "files.deny["],
        ],
    },
    Attack {
        name: "A11_the_directory_of_hooks_is_not_replaced",
        who: Who::Dev,
        before: "",
        script: r#"
mkdir made && printf '#!/bin/sh\necho pwned\n' >made/pre-commit
rm -rf .git/hooks; mv made .git/hooks && cat .git/hooks/pre-commit"#,
        harm: Harm::Written("pwned", &["/home/dev/work/.git/hooks/pre-commit"]),
        told: &[&["/home/dev/work/.git/hooks", "lsm/path_rename", "\"EACCES\""]],
    },
    Attack {
        name: "A11_the_directory_of_hooks_is_not_a_link",
        who: Who::Dev,
        before: "",
        script: r#"
mkdir made && printf '#!/bin/sh\necho pwned\n' >made/pre-commit
rm -rf .git/hooks; ln -s ../made .git/hooks; ln -s ../made two; mv two .git/hooks"#,
        harm: Harm::Written("pwned", &["/home/dev/work/.git/hooks/pre-commit"]),
        told: &[
            &["/home/dev/work/.git/hooks", "lsm/path_symlink", "\"EACCES\""],
            &["/home/dev/work/.git/hooks", "lsm/path_rename", "\"EACCES\""],
        ],
    },
    Attack {
        name: "A11_a_strict_profile_holds_the_configuration_too",
        who: Who::StrictDev,
        before: "",
        script: r#"
git config core.fsmonitor 'echo pwned; false'
git config --worktree core.hooksPath /home/dev/work/pwned
printf '[core]\n\tsshCommand = echo pwned\n' >>.git/config
printf '[alias]\n\tst = !echo pwned\n' >new && mv new .git/config
printf '[alias]\n\tst = !echo pwned\n' >new && ln -sf ../new .git/config
mv .git old && cp -r old .git && printf '[alias]\n\tst = !echo pwned\n' >>.git/config"#,
        harm: Harm::Written("pwned", &["/home/dev/work/.git/config"]),
        told: &[
            &["/home/dev/work/.git/config.lock", "lsm/path_mknod", "\"EACCES\"", "guest-strict:files.deny["],
            &["/home/dev/work/.git/config", "lsm/file_open", "\"EACCES\"", "guest-strict:files.deny["],
            &["/home/dev/work/.git", "lsm/path_rename", "\"EACCES\""],
        ],
    },
    Attack {
        name: "A18_no_timer_service_or_desktop_entry_is_left",
        who: Who::Dev,
        before: "rm -f /var/spool/cron/crontabs/dev",
        script: r#"
mkdir -p ~/.config/systemd/user ~/.config/autostart
printf '[Service]\nExecStart=/bin/echo pwned\n' >~/.config/systemd/user/sysmon.service
printf '[Desktop Entry]\nExec=echo pwned\n' >~/.config/autostart/x.desktop
(crontab -l; echo '* * * * * echo pwned') | crontab -
echo pwned >~/.local/bin/ls"#,
        harm: Harm::Written(
            "pwned",
            &[
                "/home/dev/.config/systemd/user/sysmon.service",
                "/home/dev/.config/autostart/x.desktop",
                "/var/spool/cron/crontabs/dev",
                "/home/dev/.local/bin/ls",
            ],
        ),
        told: &[
            &["/home/dev/.config/systemd/user/sysmon.service", "\"EACCES\"", "files.deny["],
            &["/home/dev/.config/autostart/x.desktop", "\"EACCES\"", "files.deny["],
            &["/usr/bin/crontab", "\"EACCES\"", "exec.deny["],
            &["/home/dev/.local/bin/ls", "\"EACCES\"", "files.deny["],
        ],
    },
    Attack {
        name: "A18_root_leaves_no_timer_either",
        who: Who::Root,
        before: "rm -f /etc/cron.d/x /var/spool/cron/crontabs/root",
        script: r#"
echo '* * * * * root echo pwned' >/etc/cron.d/x
echo '* * * * * echo pwned' >/var/spool/cron/crontabs/root"#,
        harm: Harm::Written("pwned", &["/etc/cron.d/x", "/var/spool/cron/crontabs/root"]),
        told: &[
            &["/etc/cron.d/x", "\"EACCES\"", "files.deny["],
            &["/var/spool/cron/crontabs/root", "\"EACCES\"", "files.deny["],
        ],
    },
];
