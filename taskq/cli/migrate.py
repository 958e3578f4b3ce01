"""``taskq migrate``: bring the schema of a broker up to date."""

import anyio
import click

from taskq.app import App
from taskq.connect import migrations


@click.command()
@click.argument("url", required=False)
@click.option("--plan", "what", flag_value="plan", help="Only name the steps that are lacking.")
@click.option("--sql", "what", flag_value="sql", help="Only print the SQL of the steps that are lacking.")
@click.option("--roles", "what", flag_value="roles", help="Only print the SQL that creates least-privilege roles.")
def migrate(url: str | None, what: str | None) -> None:
    """Bring the broker's schema up to date.

    Of the broker that URL names, or else the settings. All of it is done, or nothing; workers may go on meanwhile.
    """
    if url is not None and "://" not in url:
        raise click.UsageError("URL is that of a broker, such as postgresql://me@localhost/shop; none: the settings'")
    anyio.run(_migrate, url or App().settings.url, what)


async def _migrate(url: str, what: str | None) -> None:
    schema = migrations(url)
    if schema is None:
        click.echo(f"{url.partition(':')[0]} needs no migrations", err=True)
    elif what == "roles":
        click.echo(schema.roles(), nl=False)
    else:
        steps = await (schema.apply() if what is None else schema.lacking())
        if not steps:
            click.echo("the schema is up to date", err=True)
        elif what == "sql":
            click.echo(schema.script(steps), nl=False)
        else:
            click.echo("\n".join(step.name for step in steps))
