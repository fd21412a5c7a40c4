"""YAML documents that exhaust a careless parser."""

YAML_BOMBS = {
    "aliases of lists": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    + "model_settings:\n  steps: *i\n",
    "aliases of mappings": "a: &a {p: 1, q: 2}\n"
    + "".join(f"{b}: &{b} {{p: *{a}, q: *{a}}}\n" for a, b in zip("abcdefghijklmno", "bcdefghijklmnop", strict=True)),
    "merged mappings": "a: &a {p: 1}\n"
    + "".join(f"{b}: &{b} {{<<: [{','.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)),
    "itself": "model_settings: &a\n  seed: *a\n",
    "deep lists": "[" * 400_000,
    "deep mappings": "{a: " * 200_000,
    "deep blocks": "- " * 400_000,
    "many keys": "".join(f"key{n}: 1\n" for n in range(100_000)),
    "many unknown keys": "".join(f"key{n}: 1\n" for n in range(4_000)),
    "one key many times": "seed: 1\n" * 4_000,
    "a long key": "x" * 900_000 + ": 1\n",
    "a long value": "model_settings:\n  sampler: " + "x" * 900_000,
    "a long number": "model_settings:\n  seed: " + "9" * 900_000,
    "a long hexadecimal": "model_settings:\n  seed: 0x" + "f" * 900_000,
    "sexagesimal": "model_settings:\n  seed: 1" + ":1" * 20_000,
    "sexagesimal with a fraction": "model_settings:\n  cfg_scale: 1" + ":1" * 20_000 + ":1.5",
    "an empty integer": "model_settings:\n  steps: !!int ''\n",
    "an empty number": "model_settings:\n  cfg_scale: !!float ''\n",
    "a wrong flag": "use_timestamp: !!bool ''\n",
    "a wrong time": "batch_name: !!timestamp x\nseed: 1",
    "a set": "model_settings: !!set {a, b}\n",
    "pairs": "model_settings:\n  seed: !!pairs [a: 1]\n",
    "binary": "batch_name: !!binary x\n",
    "code": "batch_name: !!python/object/apply:os.system [true]\n",
    "an empty key": "? \n: 1\n",
    "a list as key": "? [a, b]\n: 1\n",
    "a mapping as key": "{? {a: 1} : 1}\n",
    "merged with text": "model_settings:\n  <<: x\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "lone surrogate": "batch_name: \udce9\nseed: 1",
    "control characters": "batch_name: \x00\x1b\n",
    "too large": "#" * 2_000_000,
}
