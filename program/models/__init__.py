"""Language models: any `dspy.LM` by name, and the embedded one, which runs in the process."""
