"""A compute module on the official Python SDK that returns what it finds around it."""

import os

from compute_modules.annotations import function
from compute_modules.auth import oauth, retrieve_pipeline_token
from compute_modules.context import QueryContext
from compute_modules.resources import get_pipeline_resources
from compute_modules.sources import get_source_secret
from compute_modules.sources_v2 import get_source


@function
def surroundings(context: QueryContext, event):
    source = get_source("Api")
    connection = source.get_https_connection()
    return {
        "secret": get_source_secret("Api", "key"),
        "secret_v2": source.get_secret("key"),
        "url": connection.url,
        "configuration": source.source_configuration,
        "context_sources": context.sources,
        "context_configurations": context.source_configs,
        "client": [context.CLIENT_ID, context.CLIENT_SECRET],
        "token": oauth(os.environ["FOUNDRY_URL"], ["api:read-data"]),
        "pipeline_token": retrieve_pipeline_token(),
        "resources": {alias: [each.rid, each.branch] for alias, each in get_pipeline_resources().items()},
        "environment": dict(os.environ),
    }
