//! The scripts, each with the prelude that it builds on. Redis runs a script as one step: nothing else happens in between.

use redis::Script;

const PUSH: &str = include_str!("lua/push.lua");
const GROUP: &str = include_str!("lua/group.lua");

pub(super) struct Scripts {
    pub(super) push_one: Script,
    pub(super) read: Script,
    pub(super) attach: Script,
    pub(super) refresh: Script,
    pub(super) detach: Script,
    pub(super) suspect: Script,
    pub(super) create: Script,
    pub(super) allocate: Script,
    pub(super) notices: Script,
    pub(super) leave: Script,
    pub(super) missing: Script,
    pub(super) fetch: Script,
    pub(super) signed: Script,
    pub(super) holdings: Script,
    pub(super) drop_group: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let of_terminal = |code: &str| Script::new(&[PUSH, code].join("\n"));
        let of_group = |code: &str| Script::new(&[PUSH, GROUP, code].join("\n"));
        Self {
            push_one: of_terminal(include_str!("lua/push_one.lua")),
            read: of_terminal(include_str!("lua/read.lua")),
            attach: of_terminal(include_str!("lua/attach.lua")),
            refresh: of_terminal(include_str!("lua/refresh.lua")),
            detach: of_terminal(include_str!("lua/detach.lua")),
            suspect: of_terminal(include_str!("lua/suspect.lua")),
            create: of_group(include_str!("lua/group_create.lua")),
            allocate: of_group(include_str!("lua/group_allocate.lua")),
            notices: of_group(include_str!("lua/group_notices.lua")),
            leave: of_group(include_str!("lua/group_leave.lua")),
            missing: of_group(include_str!("lua/group_missing.lua")),
            fetch: of_group(include_str!("lua/group_fetch.lua")),
            signed: of_group(include_str!("lua/group_signed.lua")),
            holdings: of_group(include_str!("lua/group_holdings.lua")),
            drop_group: of_group(include_str!("lua/group_drop.lua")),
        }
    }
}
