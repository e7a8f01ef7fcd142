"""What a model, a run and a service take: parameters, memory, time, machines and money, before any of it is spent."""
