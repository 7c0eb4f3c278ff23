"""The providers' batch APIs: half the price for a day's patience.

A call of an alignment waits in `collector` until no alignment can go on without an answer. Then all that wait
become a batch, which `providers` submit, look for after a crash, and read. `tables` keeps what was asked and
answered, so that a killed run neither submits a batch twice nor asks again. `models` puts all this behind a
`dspy.LM`; `engine` names each call by the piece of work that makes it.
"""
