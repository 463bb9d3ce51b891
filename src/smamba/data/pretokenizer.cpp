#include "smamba/data/pretokenizer.h"

#include <algorithm>
#include <array>
#include <utility>

namespace smamba::data {
namespace {

constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt4Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr std::array<std::pair<SplitRule, std::string_view>, 3> kPatterns = {
    {{SplitRule::kGpt2, kGpt2Pattern}, {SplitRule::kGpt4, kGpt4Pattern}, {SplitRule::kQwen2, kQwen2Pattern}}};

bool splits_at_spaces(SplitRule rule) {
  return rule == SplitRule::kGpt2 || rule == SplitRule::kGpt4 || rule == SplitRule::kQwen2;
}

}  // namespace

std::optional<SplitRule> rule_of_pattern(std::string_view regex) {
  for (const auto& [rule, pattern] : kPatterns)
    if (pattern == regex) return rule;
  return std::nullopt;
}

std::string_view pattern_of_rule(SplitRule rule) {
  for (const auto& [known, pattern] : kPatterns)
    if (known == rule) return pattern;
  return {};
}

size_t safe_cut(std::string_view text, size_t from, const std::vector<PretokenizerStep>& steps) {
  const bool splits = std::any_of(steps.begin(), steps.end(), [](const auto& s) { return splits_at_spaces(s.rule); });
  const bool prefixes = std::any_of(steps.begin(), steps.end(), [](const auto& s) { return s.prefix_space; });
  if (!splits) return text.size();
  for (size_t i = std::max<size_t>(from, 1); i < text.size(); ++i) {
    if (text[i] != ' ' && (text[i] != '\n' || prefixes)) continue;
    const auto before = static_cast<unsigned char>(text[i - 1] | 32);
    if (before >= 'a' && before <= 'z') return i;
  }
  return text.size();
}

}  // namespace smamba::data
