"""Open-loop load on a server, and what it shows: when requests are due is decided before the first one is sent.

A closed-loop generator (`wrk`, a pool of workers) sends the next request when the last one is answered, so a server that
stands still for a second is asked nothing meanwhile and one slow answer is recorded where hundreds of users would have waited:
*coordinated omission*. Here arrivals do not know of answers, and a latency counts from the moment its request was due, whatever
kept it: a busy server, a connection that had to be made, or this process, which tells how late it was itself.
"""
