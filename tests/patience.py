"""How long a test waits for what comes at once where the machine does nothing else."""

# A wait ends when the thing has happened: this is for what never does, and a machine
# that is busy takes half a minute for a second's work. It is less than a provider may
# be silent, and than a fake one stalls: what they end by themselves was not waited for.
PATIENCE = 50.0
# For what would come late anyway: a heartbeat wakes readers after fifteen seconds, and
# after twenty ended sign-ins are looked for and sockets pinged.
SOON = 12.0
