#include "smamba/data/block_encoder.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "smamba/data/csv.h"
#include "smamba/data/printable.h"

namespace smamba::data {

struct BlockEncoder::Json {
  simdjson::dom::parser parser;
};

BlockEncoder::BlockEncoder(std::shared_ptr<const Tokenizer> tokenizer, std::string column, TextRules rules)
    : tokenizer_(std::move(tokenizer)), column_(std::move(column)), rules_(rules), json_(std::make_unique<Json>()) {}
BlockEncoder::~BlockEncoder() = default;

EncodedBlock BlockEncoder::encode(Block&& block) {
  out_ = EncodedBlock{.tokens = PackedTokens(TokenStoreWriter::token_size(*tokenizer_)),
                      .documents = {},
                      .rows = block.oversized,
                      .skipped = block.oversized,
                      .error = {},
                      .error_row = 0,
                      .end = block.end,
                      .input_bytes = block.input_bytes};
  try {
    switch (block.kind) {
      case BlockKind::kFiles:
        encode_files(block);
        break;
      case BlockKind::kDocument:
        encode_document(block);
        break;
      case BlockKind::kJson:
        encode_json(block);
        break;
      case BlockKind::kCsv:
        encode_csv(block);
        break;
      case BlockKind::kTexts:
        encode_texts(block);
        break;
      case BlockKind::kTokens:
      case BlockKind::kTokenRows:
        encode_tokens(block);
        break;
    }
  } catch (const Error& error) {
    out_.error = error;
    out_.error_row = out_.rows;
  }
  return std::move(out_);
}

template <class Where>
void BlockEncoder::bad_record(const std::string& defect, const Where& where) {
  if (rules_.bad_text != BadText::kSkip) fail(Exit::kBadData, "{}: {}", where(), defect);
  ++out_.skipped;
  ++out_.rows;
}

template <class Where>
void BlockEncoder::take(std::string_view text, const Where& where) {
  if (text.empty()) {
    ++out_.skipped;
    ++out_.rows;
    return;
  }
  if (const std::string defect = text_defect(text, rules_); !defect.empty()) return bad_record(defect, where);
  ids_.clear();
  tokenizer_->encode(text, ids_);
  ids_.push_back(tokenizer_->special().end_of_text);
  out_.tokens.append(ids_);
  out_.documents.push_back({out_.tokens.size(), text.size(), hash128(text), out_.rows});
  ++out_.rows;
  if (ids_.capacity() > (size_t{4} << 20)) ids_ = {};  // one huge document must not hold its memory for ever
}

void BlockEncoder::encode_files(const Block& block) {
  std::string text;
  for (const InputFile& file : block.files) {
    if (read_document(file, rules_, text)) {
      take(text, [&] { return file.path.string(); });
    } else {
      ++out_.skipped;
      ++out_.rows;
    }
  }
}

void BlockEncoder::encode_document(const Block& block) {
  take(block.bytes, [&] { return block.origin; });
}

bool BlockEncoder::json_text(std::string_view line, std::string_view& text, std::string& defect) {
  simdjson::dom::element element;
  if (const auto error = json_->parser.parse(line.data(), line.size(), /*realloc_if_needed=*/false).get(element)) {
    const size_t bad = error == simdjson::UTF8_ERROR ? invalid_utf8_offset(line) : std::string_view::npos;
    defect = bad != std::string_view::npos ? fmt::format("offset {} of the line: expected UTF-8, found byte 0x{:02x}",
                                                         bad, static_cast<unsigned char>(line[bad]))
                                           : fmt::format("expected a JSON object, found \"{}\": {}",
                                                         printable(line.substr(0, 40)), simdjson::error_message(error));
    return false;
  }
  simdjson::dom::object object;
  if (element.get(object)) {
    defect = "expected a JSON object, found another value";
    return false;
  }
  simdjson::dom::element value;
  if (object.at_key(column_).get(value)) {
    std::vector<std::string_view> keys;
    for (const auto field : object) keys.push_back(field.key);
    defect = fmt::format("expected a key \"{}\", found {}", column_,
                         keys.empty() ? "none" : fmt::format("{}", fmt::join(keys, ", ")));
    return false;
  }
  if (value.get(text)) {
    defect =
        fmt::format("key \"{}\": expected a string, found {}", column_, value.is_null() ? "null" : "another value");
    return false;
  }
  return true;
}

void BlockEncoder::encode_json(Block& block) {
  const std::string_view bytes = block.bytes;
  uint64_t line_number = block.begin.line + block.oversized;
  size_t at = block.begin.offset == 0 && bytes.starts_with("\xef\xbb\xbf") ? 3 : 0;
  while (at < bytes.size()) {
    const size_t end = std::min(bytes.find('\n', at), bytes.size());
    const std::string_view line = bytes.substr(at, end - at);
    ++line_number;
    const auto where = [&] {
      return fmt::format("{}: line {} (offset {})", block.origin, line_number, block.begin.offset + at);
    };
    if (line.find_first_not_of(" \t\r") != std::string_view::npos) {
      std::string_view text;
      std::string defect;
      if (json_text(line, text, defect))
        take(text, where);
      else
        bad_record(defect, where);
    }
    at = end + 1;
  }
}

void BlockEncoder::encode_csv(const Block& block) {
  const std::string_view bytes = block.bytes;
  std::vector<std::string> fields;
  uint64_t line_number = block.begin.line + block.oversized + 1;
  for (size_t at = 0; at < bytes.size();) {
    bool quoted = false;
    const size_t end = std::min(csv_record_end(bytes.substr(at), quoted), bytes.size() - at);
    const std::string_view record = bytes.substr(at, end);
    const auto where = [&] { return fmt::format("{}: line {}", block.origin, line_number); };
    if (record.find_first_not_of("\r\n") != std::string_view::npos) {
      if (!parse_csv_record(record, block.separator, fields))
        bad_record("expected CSV, found a stray quote", where);
      else if (fields.size() != block.columns)
        bad_record(fmt::format("expected {} fields, found {}", block.columns, fields.size()), where);
      else
        take(fields[block.column], where);
    }
    line_number += static_cast<uint64_t>(std::count(record.begin(), record.end(), '\n'));
    at += end;
  }
}

void BlockEncoder::encode_texts(const Block& block) {
  size_t at = 0;
  for (size_t i = 0; i < block.lengths.size(); ++i) {
    const auto where = [&] { return fmt::format("{}: row {}", block.origin, block.begin.offset + i); };
    if (block.lengths[i] == kNullText) {
      bad_record(fmt::format("column \"{}\": expected a string, found null", column_), where);
      continue;
    }
    if (block.lengths[i] == kOversizedText) {
      bad_record(fmt::format("expected a document of at most {} bytes, found a longer one", rules_.max_document_bytes),
                 where);
      continue;
    }
    take(std::string_view(block.bytes).substr(at, block.lengths[i]), where);
    at += block.lengths[i];
  }
}

void BlockEncoder::encode_tokens(const Block& block) {
  size_t at = 0;
  for (size_t row = 0; row < block.lengths.size(); ++row) {
    if (block.lengths[row] >= kOversizedText) {
      bad_record(fmt::format("column \"{}\": expected token ids, found null", column_),
                 [&] { return fmt::format("{}: row {}", block.origin, block.begin.offset + row); });
      continue;
    }
    ids_.resize(block.lengths[row]);
    std::memcpy(ids_.data(), block.bytes.data() + at * 4, ids_.size() * 4);
    const auto where = [&](size_t i) {
      return block.kind == BlockKind::kTokens
                 ? fmt::format("{}: row {}", block.origin, block.begin.offset + at + i)
                 : fmt::format("{}: row {}, token {}", block.origin, block.begin.offset + row, i);
    };
    take_ids(where);
    at += ids_.size();
  }
}

/// One row of token ids, in ids_: the documents that its ends of text make.
template <class Where>
void BlockEncoder::take_ids(const Where& where) {
  const int32_t end_of_text = tokenizer_->special().end_of_text;
  for (size_t i = 0; i < ids_.size(); ++i)
    if (ids_[i] < 0 || ids_[i] >= tokenizer_->vocab_size())
      fail(Exit::kBadData, "{}: expected a token id in [0, {}) of {}, found {}", where(i), tokenizer_->vocab_size(),
           tokenizer_->name(), ids_[i]);
  bool any = false;
  for (auto begin = ids_.begin(); begin != ids_.end();) {
    const auto end = std::find(begin, ids_.end(), end_of_text);
    if (begin != end) {
      const std::span<const int32_t> document(begin, end);
      const std::string text = tokenizer_->decode(document);
      out_.tokens.append(document);
      out_.tokens.append(end_of_text);
      out_.documents.push_back({out_.tokens.size(), text.size(), hash128(text), out_.rows});
      any = true;
    }
    begin = end == ids_.end() ? end : end + 1;
  }
  if (!any) ++out_.skipped;
  ++out_.rows;
}

}  // namespace smamba::data
