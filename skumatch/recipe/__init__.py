"""The recipe of params.yaml: its parameters, how they are read and overridden, and the sentence for a wrong one."""
