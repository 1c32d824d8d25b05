// The API's description (OpenAPI) as a page.

function element(tag, text, parent) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  parent?.append(made);
  return made;
}

function resolved(schema, root) {
  if (!schema?.$ref) return schema ?? {};
  return schema.$ref.slice(2).split("/").reduce((at, part) => at[part], root);
}

function typeName(schema, root) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map((one) => typeName(one, root)).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") return `list of ${typeName(schema.items ?? {}, root)}`;
  if (schema.additionalProperties) return `object of ${typeName(schema.additionalProperties, root)}`;
  return schema.format ? `${schema.type} (${schema.format})` : schema.type ?? "any";
}

// The alternative that is not null.
function essence(schema) {
  return schema.anyOf?.find((one) => one.type !== "null") ?? schema;
}

function bounds(schema) {
  const inner = essence(schema);
  const said = [];
  if (inner.minimum !== undefined) said.push(`at least ${inner.minimum}`);
  if (inner.maximum !== undefined) said.push(`at most ${inner.maximum}`);
  if (schema.default !== undefined && schema.default !== null) said.push(`default ${JSON.stringify(schema.default)}`);
  const examples = inner.examples ?? schema.examples;
  if (examples) said.push(`for example ${examples.join(", ")}`);
  return said.join("; ");
}

// Text in which `backticks` mark code.
function prose(text, parent) {
  text.split("`").forEach((part, index) => element(index % 2 === 1 ? "code" : "span", part, parent));
}

function table(heads, lines, parent) {
  const scroll = element("div", undefined, parent);
  scroll.className = "scroll";
  const made = element("table", undefined, scroll);
  const head = element("tr", undefined, element("thead", undefined, made));
  for (const text of heads) element("th", text, head).scope = "col";
  const body = element("tbody", undefined, made);
  for (const line of lines) {
    const row = element("tr", undefined, body);
    line.forEach((text, column) => {
      const cell = element("td", undefined, row);
      if (column === 0) element("code", text, cell);
      else prose(text, cell);
    });
  }
}

// The fields of an answer, those of inner objects below their name.
function fields(schema, root, prefix = "") {
  const object = resolved(schema, root);
  return Object.entries(object.properties ?? {}).flatMap(([name, property]) => {
    const line = [prefix + name, typeName(property, root), property.description ?? ""];
    const inner = resolved(property.items ?? property, root);
    return inner.properties ? [line, ...fields(inner, root, `${prefix}${name}${property.items ? "[]" : ""}.`)] : [line];
  });
}

function show(address, method, operation, root) {
  const section = element("section", undefined, document.getElementById("operations"));
  section.className = "operation";
  const heading = element("h2", undefined, section);
  element("code", `${method.toUpperCase()} ${address}`, heading);
  prose(operation.description ?? operation.summary, element("p", undefined, section));
  const parameters = operation.parameters ?? [];
  if (parameters.length > 0) {
    element("h3", "Parameters", section);
    table(
      ["Name", "Type", "Meaning"],
      parameters.map(({ name, required, schema, description }) => [
        name,
        typeName(schema, root),
        [required ? "Required." : "", description ?? essence(schema).description ?? "", bounds(schema)].filter(Boolean).join(" "),
      ]),
      section,
    );
  }
  const answer = operation.responses["200"]?.content?.["application/json"]?.schema;
  if (answer) {
    element("h3", "Answer", section);
    table(["Field", "Type", "Meaning"], fields(answer, root), section);
  }
  if (method === "get" && !parameters.some((one) => one.required)) {
    const link = element("a", "Open", element("p", undefined, section));
    link.href = address;
    link.setAttribute("aria-label", `Open ${address}`);
  }
}

try {
  const response = await fetch("/openapi.json");
  if (!response.ok) throw new Error(response.statusText);
  const root = await response.json();
  document.getElementById("about").textContent = root.info.description;
  for (const [address, operations] of Object.entries(root.paths)) {
    for (const [method, operation] of Object.entries(operations)) show(address, method, operation, root);
  }
} catch (error) {
  const place = document.getElementById("error");
  place.textContent = `The description can't be loaded: ${error.message}`;
  place.hidden = false;
}
