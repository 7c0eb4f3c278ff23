"""Many users: durable alignments, so many calls in flight, one alignment of a user at a time.

Only `engine`, `durable_journal`, `tables` and `tasks` import dbos; what needs no durability runs without it.
"""
