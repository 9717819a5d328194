# Tests of gate.rego: `orchd policy test` runs every rule whose name begins with `test_`.
package orchd.gate_test

import rego.v1

import data.orchd.gate

store := {
	"node": "node-7",
	"principal": "key:0123456789ab",
	"permissions": ["orch/node-7/#"],
	"signed": false,
	"topic": "orch/node-7/memory/store",
	"command": "memory/store",
	"service": "memory",
	"verb": "store",
	"kind": "write",
	"sensitive": false,
	"time": {"unix_ms": 1769860800000, "hour": 12, "minute": 0, "weekday": "saturday"},
}

rule := object.union(store, {"command": "conscience/rules/set", "sensitive": true, "signed": true})

test_nothing_is_refused_as_it_is_delivered if {
	count(gate.deny) == 0 with input as store
	count(gate.deny) == 0 with input as rule
}

test_only_administrators_give_sensitive_commands if {
	count(gate.deny) == 1 with input as rule with data.administrators as ["key:ffffffffffff"]
	count(gate.deny) == 0 with input as rule with data.administrators as [rule.principal]
	count(gate.deny) == 0 with input as store with data.administrators as ["key:ffffffffffff"]
}

test_who_is_blocked_does_nothing if {
	gate.deny == {"this principal is blocked"} with input as store with data.blocked as [store.principal]
}

test_the_quiet_hours_end if {
	quiet := {"from": 8, "to": 13, "commands": ["memory/store"]}
	count(gate.deny) == 1 with input as store with data.quiet as quiet
	count(gate.deny) == 0 with input as store with data.quiet as object.union(quiet, {"to": 12})
}
