// The rows as `packing.py` wrote them. A row is unpacked when somebody asks for it, and once.

function openStore(data) {
  const parts = new Map();
  const rows = new Map();

  function part(number) {
    const stored = data.pool[number];
    if (typeof stored === "string") return stored;
    if (!parts.has(number)) parts.set(number, unpack(stored));
    return parts.get(number);
  }

  function unpack([shape, ...leaves]) {
    let next = 0;
    // Own keys only: a row may have a key such as `__proto__`.
    const build = (at) => {
      if (at === 0) return leaves[next++];
      if (at === 1) return part(leaves[next++]);
      if (Array.isArray(at)) return at.map(build);
      const built = Object.create(null);
      for (const [key, inner] of Object.entries(at)) built[key] = build(inner);
      return built;
    };
    return build(data.shapes[shape]);
  }

  function row(place) {
    if (!rows.has(place)) rows.set(place, unpack(data.rows[place]));
    return rows.get(place);
  }

  return {
    row,
    byId: (id) => {
      const place = data.rows.findIndex((_, at) => row(at).id === id);
      return place < 0 ? null : row(place);
    },
  };
}
