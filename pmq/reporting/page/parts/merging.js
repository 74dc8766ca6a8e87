// How many tokens are merged behind each block, and how many the blocks behind it compute.

function renderMerging({ tokens, prefix, merged }) {
  let left = tokens;
  const rows = Object.entries(merged).map(([block, count]) => [block, count, (left -= count)]);
  const about = `Of the ${tokens} tokens of an image, ${tokens - left} are merged into similar ones. The ${prefix} at the front, such as the class token, never are.`;
  section("merging", "Merged tokens", note(about), table(["behind", "merged", "remaining"], rows));
}
