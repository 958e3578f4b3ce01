"""What tasks need against what a broker promises: compared once, before anything runs."""

from collections.abc import Sequence

from taskq.broker import Backend, Finding, Traits
from taskq.codec import changing
from taskq.debounce import bounded
from taskq.definition import Definition
from taskq.errors import MissingCapability
from taskq.limits.declared import waits
from taskq.options import CallOptions
from taskq.signature import Signature


def missing(definition: Definition, options: CallOptions, backend: Backend) -> Sequence[str]:
    """What the task or this call of it needs and the backend does not promise, each with the remedy."""
    traits, broker = backend.broker.traits, type(backend.broker).__name__
    companion = "pair the broker with a companion store, or choose another broker"
    needs = [
        (definition.policy.guarantee not in traits.delivery, f"delivery {definition.policy.guarantee}", companion),
        (options.unique is not False and not traits.unique, "unique keys", companion),
        (options.group is not False and not traits.groups, "groups", companion),
        (any(map(waits, definition.limits)) and not traits.groups, "groups for its Concurrency", companion),
        (bool(definition.limits) and backend.store is None, "a store for its limits", companion),
        (bounded(options.debounce) and backend.store is None, "a store for its debounce with at_most", companion),
        (definition.collect is not None and backend.store is None, "a store for what it collects", companion),
        (definition.collect is not None and not traits.unique, "unique keys for what it collects", companion),
        (options.id is not None and not traits.idempotent, "ids of one's own", companion),
        (options.priority != 0 and not (traits.ordered or traits.bands), "priorities", "use a queue for each priority"),
        (bool(definition.capture) and backend.store is None, "a store for what it captures", companion),
        (bool(definition.keep) and backend.results is None, "kept results", companion),
        (definition.transaction and backend.transactions is None, "transaction=True", "use PostgreSQL or SQLite"),
        (definition.transaction and not traits.fenced, "fenced receipts for transaction=True", companion),
        (options.tx is not None and backend.transactions is None, "tx=", "use PostgreSQL or SQLite, or an outbox"),
    ]
    return [f"it needs {need}, which {broker} does not promise: {remedy}" for lacks, need, remedy in needs if lacks]


def check_call(definition: Definition, options: CallOptions, backend: Backend) -> None:
    """Raises MissingCapability, naming the task, the need and the remedy."""
    problems = missing(definition, options, backend)
    if problems:
        raise MissingCapability(f"task {definition.name}: {problems[0]}")


def check_task(
    definition: Definition, options: CallOptions, backend: Backend | None, *, strict: bool
) -> Sequence[Finding]:
    """All that can be said of a task before it runs; without a backend, what can be said without one."""
    findings = [
        Finding(definition.name, "error", problem)
        for problem in (missing(definition, options, backend) if backend is not None else ())
    ]
    repeats = definition.policy.guarantee == "at_least_once" and not definition.transaction
    shared = backend is not None and not backend.broker.traits.exclusive
    if repeats and not definition.idempotent:
        when = "at any time, and twice at once" if shared else "after a crash"
        says_no = definition.idempotent is False
        said = "says idempotent=False" if says_no else "does not say whether it is idempotent"
        message = (
            f"it may run more than once {when}, and {said}: make it so and say idempotent=True, guard its "
            'effects by a key and say idempotent="guarded", or choose delivery="at_most_once"'
        )
        findings.append(Finding(definition.name, "error" if strict or says_no else "warning", message))
    if options.tenant is not None and backend is not None and not backend.broker.traits.fair:
        broker = type(backend.broker).__name__
        message = (
            f"its tenant is stored with the job, but {broker} lets no tenants take turns: give each a queue, or cap "
            "them with limits=Concurrency(n, key=...)"
        )
        findings.append(Finding(definition.name, "warning", message))
    return [*findings, *outlasting(definition, backend)] if backend is not None else findings


def copies(name: str, signature: Signature, *, strict: bool) -> Sequence[Finding]:
    """What is to be said of calls that carry objects where an id would do: a copy is as old as its call."""
    return [
        Finding(
            name,
            "error" if strict else "warning",
            f"its argument {argument!r} carries a {cls.__qualname__}, which has an id and may change: a run would have "
            "a copy as old as its call",
            "pass the id, and look it up; or make the class frozen, if it tells of something that has happened",
        )
        for argument, shape in signature.shapes.items()
        for cls in changing(shape)
    ]


def outlasting(definition: Definition, backend: Backend) -> Sequence[Finding]:
    """What is to be said of a task whose run may take longer than the broker lets anybody hold a job."""
    run, most = definition.timeouts.run, backend.broker.traits.max_lease
    if run is None or run <= most:
        return ()
    broker = type(backend.broker).__name__
    message = (
        f"its timeout={run:g} is longer than the {most:,.0f} seconds for which {broker} leases a job: "
        "shortly before they are over a run is cancelled, as at a shutdown, and the job begins anew elsewhere"
    )
    remedy = "make it shorter, or pair the broker with a companion store"
    return [Finding(definition.name, "warning", message, remedy)]


def lingering(backend: Backend, grace: float) -> Sequence[Finding]:
    """What is to be said of a broker that may take longer to close than a worker has to end."""
    linger = backend.broker.traits.linger
    if linger <= grace:
        return ()
    broker = type(backend.broker).__name__
    message = (
        f"closing {broker} may take {linger:g} seconds, and grace={grace:g} gives a worker less: "
        "killed meanwhile it may have been given jobs, for which others then wait until their leases end"
    )
    return [Finding("grace", "warning", message, "set poll= in the URL below the grace, or the grace above it")]


def durable(traits: Traits) -> str:
    """What a deployment's durability means, in a sentence."""
    return {
        "process": "jobs live in this process alone",
        "seconds": "a crash of the machine may lose the last seconds",
        "disk": "a deferred job survives a crash of the machine",
        "replicated": "a deferred job survives the loss of a machine",
    }[traits.durability]
