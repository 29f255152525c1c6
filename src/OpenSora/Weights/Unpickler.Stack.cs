using System.Runtime.InteropServices;
using System.Text;

namespace OpenSora.Weights;

/// <summary>The stack and the memo.</summary>
internal ref partial struct Unpickler
{
    private readonly void Push(PickleValue value) => _allowance.Add(_stack, value);

    private readonly PickleValue Top()
    {
        Expect(_stack.Count > (_marks.Count > 0 ? _marks[^1] : 0), "its stack is empty");
        return _stack[^1];
    }

    private readonly PickleValue Pop()
    {
        var value = Top();
        _stack.RemoveAt(_stack.Count - 1);
        return value;
    }

    private readonly PickleValue[] PopLast(int count)
    {
        Expect(_stack.Count - (_marks.Count > 0 ? _marks[^1] : 0) >= count, "its stack is empty");
        _allowance.Expect(24 + (16L * count));
        var values = CollectionsMarshal.AsSpan(_stack)[^count..].ToArray();
        Drop(count);
        return values;
    }

    private readonly PickleValue[] PopToMark()
    {
        var values = PopLast(AboveMark().Length);
        _marks.RemoveAt(_marks.Count - 1);
        return values;
    }

    /// <summary>Gets the values above the last mark without removing them. The span is valid until the stack changes.</summary>
    private readonly ReadOnlySpan<PickleValue> AboveMark()
    {
        Expect(_marks.Count > 0, "a mark is missing");
        return CollectionsMarshal.AsSpan(_stack)[_marks[^1]..];
    }

    /// <summary>Gets the value below the last mark, to which the values above the mark are added.</summary>
    private readonly object? BelowMark()
    {
        var (mark, bottom) = (_marks.Count > 0 ? _marks[^1] : 0, _marks.Count > 1 ? _marks[^2] : 0);
        Expect(mark > bottom, "its stack is empty");
        return _stack[mark - 1].Object;
    }

    private readonly void DropToMark()
    {
        Drop(AboveMark().Length);
        _marks.RemoveAt(_marks.Count - 1);
    }

    private readonly void Drop(int count) => _stack.RemoveRange(_stack.Count - count, count);

    /// <summary>Stores the top of the stack in the memo. Picklers use consecutive memo indices, starting at 0 or 1.</summary>
    private void Remember(long index)
    {
        var value = Top();
        Expect(index <= _remembered || index == 1, "it skips memo indices");
        if (index / MemoPage == _memo.Count)
        {
            _allowance.Expect(24 + (16 * MemoPage));
            _allowance.Add(_memo, new PickleValue[MemoPage]);
        }

        _memo[(int)index / MemoPage][(int)index % MemoPage] = value;
        _remembered = Math.Max(_remembered, (int)index + 1);
    }

    private readonly PickleValue Recall(long index)
    {
        Expect(index < _remembered, "it reads a memo entry that was not set");
        return _memo[(int)index / MemoPage][(int)index % MemoPage];
    }

    private readonly void PushLong(ReadOnlySpan<byte> bytes)
    {
        if (bytes.Length > 8)
        {
            Push(new(PickledBytes)); // larger than any size or element count of a tensor
            return;
        }

        var value = bytes.Length > 0 && (bytes[^1] & 0x80) != 0 ? -1L : 0;
        for (var i = bytes.Length - 1; i >= 0; i--)
        {
            value = (value << 8) | bytes[i];
        }

        Push(PickleValue.Whole(value));
    }

    private readonly void PushText(ReadOnlySpan<byte> bytes)
    {
        _allowance.Expect(32 + (2L * bytes.Length));
        Push(new(Encoding.UTF8.GetString(bytes)));
    }
}
