"""Which language model: any dspy.LM, or the embedded one."""
