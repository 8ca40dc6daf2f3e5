"""Functions as applications know them: queries with API names, API types and errors of their own (functions API).

Nothing here knows of requests.
"""
