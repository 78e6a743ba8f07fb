"""How Python processes that touch a secret stand: environment, no core, no tracer, few files, few system calls.

Every part says whether it holds; who must not go on without one says so itself. Order: environment (it starts the
process again), then imports, then files, then system calls, then threads: Linux confines the thread that asks and those
that it makes.
"""
