namespace OpenSora.Weights;

/// <summary>The calls that rebuild tensors, and the tensors that they return.</summary>
internal ref partial struct Unpickler
{
    private const int MostUnknown = 1000; // names that are not known, in one pickle

    /// <summary>Returns the result of a call. An object of an unknown class or function is represented by its name.</summary>
    private readonly PickleValue Call(PickleValue called, PickleValue tuple)
    {
        var (function, arguments) = (called.Object as PickleGlobal, tuple.Object as PickleValue[]);
        Expect(function is not null && arguments is not null, "it calls an object that is not a named global");
        switch (function!.Kind)
        {
            case GlobalKind.Unknown:
                ExpectNoTensor(function, tuple);
                return new(function);
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
                            { Object: PickleGlobal { Kind: GlobalKind.ElementType or GlobalKind.Unknown } },
                            ..,
                        ],
                    "a typed tensor's arguments are not a storage, an offset, sizes, strides and a type"
                );
                return new(Tensor((PickleStorage)arguments![0].Object!, TypeOf((PickleGlobal)arguments[6].Object!), arguments));
            case GlobalKind.Parameter:
                if (arguments is [{ Object: PickleGlobal { Kind: GlobalKind.Unknown } unknown }, ..])
                {
                    throw Refused(unknown.Name);
                }

                Expect(arguments is [{ Object: PickleTensor }, ..], "a parameter is created from an object that is not a tensor");
                return arguments![0];
            case GlobalKind.Call:
                foreach (var part in arguments.AsSpan(0, Math.Min(2, arguments!.Length)))
                {
                    if (part.Object is PickleGlobal { Kind: GlobalKind.Unknown } rebuild)
                    {
                        throw Refused(rebuild.Name);
                    }
                }

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
                return Call(arguments![0], arguments[2]);
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
                    { Object: PickleGlobal { Kind: GlobalKind.ElementType or GlobalKind.Bytes or GlobalKind.Unknown } },
                    { Object: string },
                    _,
                    { IsWhole: true },
                    ..,
                ],
            "a persistent ID does not name a storage"
        );
        var type = id![1].Object is PickleGlobal { Kind: GlobalKind.Unknown } unknown ? TypeOf(unknown) : ((PickleGlobal)id[1].Object!).Type;
        var (key, count) = ((string)id[2].Object!, id[4].Bits);
        if (_records(key) is not { } record)
        {
            throw Damaged($"the archive does not contain the storage record '{InvalidWeightsException.Shown(key)}'; it is truncated or was repacked");
        }

        var size = type is null ? 1 : SafetensorsHeader.TypeOf(type).Size;
        var length = size == 0 ? record.Length : (Int128)count * size;
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
        var known = SafetensorsHeader.TypeOf(type).Size;
        var size = Math.Max(known, 1);
        Expect(
            shape.Length == strides.Length && SafetensorsHeader.TrySpan(shape, strides, size, out _),
            "the shape of a tensor is too large, or its shape and strides have different numbers of dimensions"
        );
        if (known == 0)
        {
            return new PickleTensor(type, shape, null, storage.Offset, storage.Length); // can be listed, but not read
        }

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

    /// <summary>Gets the element type that a global names. The names of unknown types are kept, so that their tensors can be listed.</summary>
    private static string TypeOf(PickleGlobal global) => global.Type ?? InvalidWeightsException.Shown(global.Name, 32);

    private readonly PickleGlobal Global(ReadOnlySpan<char> name)
    {
        if (PickleGlobal.ByName.TryGetValue(name, out var known))
        {
            return known;
        }

        if (_unknown.GetAlternateLookup<ReadOnlySpan<char>>().TryGetValue(name, out var global))
        {
            return global;
        }

        Expect(_unknown.Count < MostUnknown, "it names more than 1,000 unknown classes and functions");
        _allowance.Expect(128 + (2L * name.Length) + (128L * _unknown.Count)); // the dictionary may need to grow
        var text = name.ToString();
        _unknown.Add(text, global = new PickleGlobal(text, GlobalKind.Unknown));
        return PickleGlobal.IsAttack(text) ? throw Refused(text) : global;
    }

    /// <summary>Refuses a value that is given to an unknown object and holds a tensor: only its code could say what becomes of the tensor.</summary>
    private readonly void ExpectNoTensor(object? target, PickleValue given)
    {
        if (target is PickleGlobal { Kind: GlobalKind.Unknown } unknown && given.HoldsTensor)
        {
            throw Refused(unknown.Name);
        }
    }

    private readonly InvalidWeightsException Refused(string name) =>
        new(
            _path,
            $"its pickle names '{InvalidWeightsException.Shown(name)}', which is not one of the calls that rebuild tensors"
                + (
                    PickleGlobal.IsAttack(name)
                        ? " and can run commands, code or downloads when the file is loaded in Python. "
                        : ", but would have to run to obtain a tensor. "
                )
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
