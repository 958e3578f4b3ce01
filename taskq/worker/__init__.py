"""A process's line of stations: Fetcher → Slots → Settler, with Leases beside them.

===========  ==========================================================================================
fetcher      asks the broker for as many jobs as there is room for
slots        runs each in an asyncio task and context of its own
run          a task as a worker runs it, and one delivery in its hands
runner       decodes a delivery, runs its handler, and tells how that went
handlers     how a handler is called: in the loop, in a thread, in another process
deadlines    one timer for all time-outs: asks runs to stop, or to end
settler      decides what follows, and tells the broker in as few calls as load allows
witness      what is known of a worker that dies under a job
effects      what an end brings about, before it is settled
leases       extends what is held, from a thread of its own
throttle     fewer jobs at once while the loop lags
watchdog     notices from another thread that the loop stands still, and where
contact      whether the broker answers: one event when it goes, one when it returns
control      what operators ask of running workers: pause and cancel
recipe       what a worker needs of an app's tasks, made once when it starts
signals      what TERM, USR1, TTIN and the like make a worker do
worker       puts the line together, and takes it apart without losing anything
===========  ==========================================================================================
"""
