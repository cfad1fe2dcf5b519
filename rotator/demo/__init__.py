"""The demo: the real service, for half a minute, between a local Neon and two consumers that never stop.

Nothing in here is staged. `stage` writes a configuration and starts what it names: the sandbox, a webhook
receiver (`receiver`), two consumers that call Neon ten times a second with whatever secret they hold
(`consumers`), and `rotator run` as a process of its own (`service`). `story` follows the service's log,
`view` shows it, drawn on a terminal and as lines elsewhere, and `outcome` holds what the service says
against what the sandbox and the consumers counted. `play` is the order of these things.
"""
