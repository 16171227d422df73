"""Figures for print: what they show (collect, convergence, points), how they look (style, palette)."""
