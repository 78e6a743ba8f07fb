"""What `unlatch doctor` knows of a host and of the memory of its processes. Checks are pure; `facts` gathers what they judge."""
