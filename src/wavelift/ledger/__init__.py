"""The relational record of servers, migrations, slots and events. Control-plane tasks, console and CLI only."""
