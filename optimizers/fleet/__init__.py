"""Many users: durable alignments, so many calls in flight, one alignment of a user at a time.

Only `optimizers.fleet.engine` imports dbos.
"""
