"""What is under the routes: the site, its connections, their requests and bodies."""
