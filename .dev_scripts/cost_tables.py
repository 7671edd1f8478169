"""What the training of every config costs, by tools/step_cost.py."""

import json
from pathlib import Path

import step_cost
import yaml

from mmbckd.analysis.formatting import markdown_table


def step_costs(root: Path) -> list[str]:
    """What the training of every config costs, by data set and pair."""
    path = root / 'configs' / 'step_costs.json'
    costs = {
        row['config']: row for row in json.loads(path.read_text())['rows']
    }
    index = yaml.safe_load((root / 'model-index.yml').read_text())
    groups: dict[str, dict[str, list[str]]] = {}
    for name in index['Import']:
        metafile = yaml.safe_load((root / name).read_text())
        for model in metafile.get('Models', []):
            pairs = groups.setdefault(model['Metadata']['Training Data'], {})
            folder = Path(model['Config']).parent.name
            pairs.setdefault(folder, []).append(model['Name'])
    lines = []
    for data, pairs in groups.items():
        lines += [f'## {data}', '', *pairs_costs(pairs, costs), '']
    measured = next(row for row in costs.values() if 'error' not in row)
    return [*lines, step_cost.NOTE.format(**measured)]


def pairs_costs(
    pairs: dict[str, list[str]], costs: dict[str, dict]
) -> list[str]:
    """A table of the configs of some folders, and what went wrong."""
    blank = [''] * len(step_cost.HEADS)
    rows, reasons = [], []
    for folder, names in pairs.items():
        rows.append([f'**{folder}**', *blank])
        for name in names:
            cost = costs.get(name, {})
            if 'flops' in cost:
                rows.append([name, *step_cost.cells(cost)])
                continue
            rows.append([name, 'not run', *blank[1:]])
            if 'error' in cost:
                reasons.append(f'- {name}: {cost["error"]}')
    lines = markdown_table(['config', *step_cost.HEADS], rows)
    return lines + (['', 'Not run:', '', *reasons] if reasons else [])
