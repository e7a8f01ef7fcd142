"""Who is answered, when, by which variant: pure decisions over numbers and a clock that is handed in; no sockets, no threads.

| module | decides |
|---|---|
| `cost` | how long a batch takes, learned while serving |
| `batch` | order, batch size and who is dropped |
| `admission`, `quota` | who is let in, and when to come back |
| `tiers`, `router`, `cascade` | which variant answers, for which device, and whether to ask a larger one |
| `replicas` | which copy of a model is asked |
| `canary` | who sees a new version, and when it is stopped |
| `autoscale` | how many copies there should be |
"""
