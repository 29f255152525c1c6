namespace OpenSora.Weights;

/// <summary>The calls that rebuild tensors, and the tensors that they return.</summary>
internal ref partial struct Unpickler
{
    /// <summary>Returns the result of a call to a known global.</summary>
    private readonly PickleValue Call(PickleGlobal? function, PickleValue[]? arguments)
    {
        Expect(function is not null && arguments is not null, "it calls an object that is not a named global");
        switch (function!.Kind)
        {
            case GlobalKind.Dictionary:
                var dictionary = new PickleDictionary();
                if (arguments is [{ Object: PickleList or PickleValue[] } pairs])
                {
                    foreach (var pair in Items(pairs.Object))
                    {
                        var item = Items(pair.Object);
                        Expect(item.Length == 2, "a dictionary is created from items that are not pairs");
                        AddPairs(dictionary, item);
                    }
                }

                return new(dictionary);
            case GlobalKind.Tensor:
                Expect(
                    arguments
                        is [
                            { Object: PickleStorage { Type: not null } },
                            { IsWhole: true },
                            { Object: PickleValue[] },
                            { Object: PickleValue[] },
                            ..,
                        ],
                    "a tensor's arguments are not a storage, an offset, sizes and strides"
                );
                return new(Tensor((PickleStorage)arguments![0].Object!, ((PickleStorage)arguments[0].Object!).Type!, arguments));
            case GlobalKind.TypedTensor:
                Expect(
                    arguments
                        is [
                            { Object: PickleStorage },
                            { IsWhole: true },
                            { Object: PickleValue[] },
                            { Object: PickleValue[] },
                            _,
                            _,
                            { Object: PickleGlobal { Kind: GlobalKind.ElementType } },
                            ..,
                        ],
                    "a typed tensor's arguments are not a storage, an offset, sizes, strides and a type"
                );
                return new(Tensor((PickleStorage)arguments![0].Object!, ((PickleGlobal)arguments[6].Object!).Type!, arguments));
            case GlobalKind.Parameter:
                Expect(arguments is [{ Object: PickleTensor }, ..], "a parameter is created from an object that is not a tensor");
                return arguments![0];
            case GlobalKind.Call:
                Expect(
                    arguments
                        is [
                            { Object: PickleGlobal { Kind: GlobalKind.Tensor or GlobalKind.TypedTensor or GlobalKind.Parameter } },
                            { Object: PickleGlobal { Kind: GlobalKind.TensorClass } },
                            { Object: PickleValue[] },
                            ..,
                        ],
                    "a tensor subclass is not rebuilt like a tensor"
                );
                return Call((PickleGlobal)arguments![0].Object!, (PickleValue[])arguments[2].Object!);
            case GlobalKind.Ignored:
                return new(function);
            default:
                throw Damaged($"it calls '{function.Name}', which is not a function");
        }
    }

    /// <summary>Gets a storage by its persistent ID: <c>("storage", class, key, device, elements)</c>.</summary>
    private readonly PickleStorage Storage(PickleValue[]? id)
    {
        Expect(
            id
                is [
                    { Object: "storage" },
                    { Object: PickleGlobal { Kind: GlobalKind.ElementType or GlobalKind.Bytes } },
                    { Object: string },
                    _,
                    { IsWhole: true },
                    ..,
                ],
            "a persistent ID does not name a storage"
        );
        var type = ((PickleGlobal)id![1].Object!).Type;
        var (key, count) = ((string)id[2].Object!, id[4].Bits);
        if (_records(key) is not { } record)
        {
            throw Damaged($"the archive does not contain the storage record '{InvalidWeightsException.Shown(key)}'; it is truncated or was repacked");
        }

        var length = (Int128)count * (type is null ? 1 : SafetensorsHeader.TypeOf(type).Size);
        if (count < 0 || length > record.Length)
        {
            throw Damaged($"the storage '{InvalidWeightsException.Shown(key)}' declares {length} bytes, but its record has {record.Length}");
        }

        return new PickleStorage(type, record.Offset, (long)length);
    }

    /// <summary>Creates a tensor from the first four arguments of a call and validates it against its storage.</summary>
    private readonly PickleTensor Tensor(PickleStorage storage, string type, PickleValue[] arguments)
    {
        var (shape, strides) = (Numbers(arguments[2].Object), Numbers(arguments[3].Object));
        var size = SafetensorsHeader.TypeOf(type).Size;
        Expect(
            shape.Length == strides.Length && SafetensorsHeader.TrySpan(shape, strides, size, out _),
            "the shape of a tensor is too large, or its shape and strides have different numbers of dimensions"
        );
        _ = SafetensorsHeader.TrySpan(shape, strides, size, out var length);
        var offset = (Int128)arguments[1].Bits * size;
        if (offset < 0 || offset + length > storage.Length)
        {
            throw Damaged($"a tensor of shape [{string.Join(", ", shape)}] extends to byte {offset + length} of a storage of {storage.Length} bytes");
        }

        return new PickleTensor(type, shape, IsRowByRow(shape, strides) || length == 0 ? null : strides, storage.Offset + (long)offset, length);
    }

    private static bool IsRowByRow(long[] shape, long[] strides)
    {
        var expected = 1L;
        for (var i = shape.Length - 1; i >= 0; i--)
        {
            if (shape[i] != 1 && strides[i] != expected)
            {
                return false;
            }

            expected *= shape[i];
        }

        return true;
    }

    private readonly long[] Numbers(object? tuple)
    {
        var values = (PickleValue[])tuple!;
        Expect(values.Length <= SafetensorsHeader.MaxDimensions, "a tensor has too many dimensions");
        var numbers = new long[values.Length];
        for (var i = 0; i < numbers.Length; i++)
        {
            Expect(values[i].IsWhole && values[i].Bits >= 0, "the sizes and strides of a tensor must be non-negative integers");
            numbers[i] = values[i].Bits;
        }

        return numbers;
    }

    private readonly PickleGlobal Global(ReadOnlySpan<char> name) =>
        PickleGlobal.ByName.TryGetValue(name, out var known)
            ? known
            : throw new InvalidWeightsException(
                _path,
                $"its pickle names '{InvalidWeightsException.Shown(name.ToString())}', which is not one of the calls that rebuild tensors. "
                    + "No code in the file was executed. "
                    + "If you trust the file, load it in Python and save only its tensors, for example: "
                    + "torch.save({k: v for k, v in state_dict.items()}, 'weights.pt')."
            );

    private static PickleValue[] Items(object? sequence) =>
        sequence switch
        {
            PickleValue[] tuple => tuple,
            PickleList list => [.. list.Items],
            _ => [],
        };
}
