using System.Runtime.CompilerServices;
using System.Text.Json;

namespace OpenSora.Preparation.PublicSets.Lists;

/// <summary>A member of the object that a JSON file contains, or an element of an array in it.</summary>
/// <param name="Name">The name of the member.</param>
/// <param name="Value">The value.</param>
/// <param name="Line">The line on which the value ends, from 1.</param>
internal readonly record struct JsonMember(string Name, JsonElement Value, long Line);

/// <summary>Reads the members of a large JSON object one by one, without reading the file into memory.</summary>
internal sealed class JsonMembers
{
    private const int MaxValue = 256 << 20;
    private readonly string _path;
    private readonly Func<string, bool> _isSplit;
    private byte[] _buffer = new byte[1 << 16];
    private int _start,
        _length;
    private bool _isFinal;
    private long _line = 1;
    private JsonReaderState _state;
    private Stage _stage = Stage.Start;
    private string _name = "";

    private JsonMembers(string path, Func<string, bool> isSplit) => (_path, _isSplit) = (path, isSplit);

    private enum Stage
    {
        Start,
        Name,
        Value,
        Element,
        End,
    }

    /// <summary>Reads the members in the order of the file.</summary>
    /// <param name="path">The path of the file.</param>
    /// <param name="isSplit">Determines by its name whether a member is an array whose elements are returned one by one.</param>
    /// <param name="cancellationToken">Stops reading.</param>
    /// <exception cref="PreparationException">The file is not a JSON object.</exception>
    internal static async IAsyncEnumerable<JsonMember> ReadAsync(
        string path,
        Func<string, bool> isSplit,
        [EnumeratorCancellation] CancellationToken cancellationToken
    )
    {
        var members = new JsonMembers(path, isSplit);
        var file = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, 1, FileOptions.Asynchronous | FileOptions.SequentialScan);
        await using (file.ConfigureAwait(false))
        {
            await members.FillAsync(file, cancellationToken).ConfigureAwait(false);
            if (members._buffer.AsSpan(0, members._length).StartsWith("\uFEFF"u8))
            {
                members._start = 3;
            }

            while (members._stage != Stage.End)
            {
                if (members.TryNext(out var member))
                {
                    if (member is { } found)
                    {
                        yield return found;
                    }
                }
                else
                {
                    await members.FillAsync(file, cancellationToken).ConfigureAwait(false);
                }
            }
        }
    }

    private async Task FillAsync(FileStream file, CancellationToken cancellationToken)
    {
        _buffer.AsSpan(_start, _length - _start).CopyTo(_buffer);
        (_length, _start) = (_length - _start, 0);
        if (_length > _buffer.Length / 2)
        {
            if (_buffer.Length >= MaxValue)
            {
                throw ListValues.Error(_path, _line, $"A value is longer than {MaxValue >> 20} MiB.");
            }

            Array.Resize(ref _buffer, _buffer.Length * 2);
        }

        var count = await file.ReadAsync(_buffer.AsMemory(_length), cancellationToken).ConfigureAwait(false);
        _length += count;
        _isFinal = count == 0;
    }

    // Advances by one token or value; false if more bytes are needed.
    private bool TryNext(out JsonMember? member)
    {
        member = null;
        var reader = new Utf8JsonReader(_buffer.AsSpan(_start, _length - _start), _isFinal, _state);
        try
        {
            if (_stage == Stage.Value && !_isSplit(_name))
            {
                if (!JsonElement.TryParseValue(ref reader, out var value))
                {
                    return false;
                }

                Consume(ref reader);
                member = new(_name, value.Value, _line);
                _stage = Stage.Name;
                return true;
            }

            if (!reader.Read())
            {
                return false;
            }

            switch (_stage, reader.TokenType)
            {
                case (Stage.Start, JsonTokenType.StartObject):
                    _stage = Stage.Name;
                    break;
                case (Stage.Name, JsonTokenType.PropertyName):
                    (_name, _stage) = (reader.GetString()!, Stage.Value);
                    break;
                case (Stage.Name, JsonTokenType.EndObject):
                    _stage = Stage.End;
                    break;
                case (Stage.Value, JsonTokenType.StartArray):
                    _stage = Stage.Element;
                    break;
                case (Stage.Element, JsonTokenType.EndArray):
                    _stage = Stage.Name;
                    break;
                case (Stage.Element, _):
                    if (!JsonElement.TryParseValue(ref reader, out var element))
                    {
                        return false;
                    }

                    Consume(ref reader);
                    member = new(_name, element.Value, _line);
                    return true;
                default:
                    Consume(ref reader);
                    throw ListValues.Error(
                        _path,
                        _line,
                        _stage == Stage.Start ? "The file is not a JSON object." : $"'{_name}' is not a JSON array."
                    );
            }

            Consume(ref reader);
            return true;
        }
        catch (JsonException e)
        {
            throw ListValues.Error(_path, e.LineNumber + 1 ?? _line, $"The file is not valid JSON: {e.Message.Split(" LineNumber:")[0]}", e);
        }
    }

    private void Consume(ref Utf8JsonReader reader)
    {
        var consumed = (int)reader.BytesConsumed;
        _line += _buffer.AsSpan(_start, consumed).Count((byte)'\n');
        _start += consumed;
        _state = reader.CurrentState;
    }
}
