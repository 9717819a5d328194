# The default policy of a node: what has to be fulfilled besides credentials, permissions and signatures.
#
# Copy this folder, name the copy in `policy.folder`, change it, and run `orchd policy test --folder DIR`. A reload
# (SIGHUP, or the command node/reload) puts it in force once its tests pass; until then the old one stays.
#
# A command is refused when `deny` holds: each text in it is a reason, and is told to the asker. A policy can only refuse;
# what nothing allows it cannot allow. `input` is explained in docs/security.md, `data` is what data.json holds.
package orchd.gate

import rego.v1

# Commands that change rules, keys or the configuration come from a key that is on the list, where there is a list.
deny contains "only administrators may give sensitive commands" if {
	input.sensitive
	count(data.administrators) > 0
	not input.principal in data.administrators
}

# Who is blocked may do nothing, however good the credentials are.
deny contains "this principal is blocked" if input.principal in data.blocked

# Commands that are not given at night (UTC), such as those that remove much.
deny contains sprintf("%s is not done from %v:00 to %v:00 UTC", [input.command, data.quiet.from, data.quiet.to]) if {
	input.command in data.quiet.commands
	input.time.hour >= data.quiet.from
	input.time.hour < data.quiet.to
}
