"""How do several worker processes serve one port?"""
